"""Beam search with the meaning that transformers' generate gives it, for a batch of sentences that leave when they are done.

At every step a sentence has K beams, and of all their continuations by one token the best 2 K are candidates: enough for K
that go on, since a beam has one </s>. A candidate among the best K that ends (by </s>, or because it is as long as
allowed) is finished, and ranks by its log-probability / length ** length_penalty. A sentence is done when K are finished.

Shapes as in `pipeline.engines.incremental`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.engines.incremental import IncrementalDecoder
from pipeline.engines.search import BeamSearch

if TYPE_CHECKING:
    from pipeline.models.seq2seq import Model

_IDLE_SHARE = 16
"""Sentences that are done leave the batch together, when they are one in so many: each time, all caches are copied."""


@torch.no_grad()  # not inference_mode: optimum-quanto's tensors do not take it
def beam_search(
    model: Model, sources: list[list[int]], search: BeamSearch, *, start: int, pad: int, end: int, never: list[int]
) -> list[list[int]]:
    """Return each source's best hypothesis, on the model's device; ids, with `end` where it was reached.

    `start` is what the decoder begins with; the tokens of `never` are not produced, nor `end` as the first. The model is
    expected in eval mode.
    """
    device = model.lm_head.weight.device
    beam, batch = search.beam, len(sources)
    source, present = _padded(sources, pad, device)
    decoder = IncrementalDecoder(model, source, present, beam=beam, max_length=search.max_length)

    hypotheses: list[list[int]] = [[] for _ in sources]
    sentences = torch.arange(batch, device=device)  # [B]: the numbers of those in the batch
    tokens = torch.full(
        (batch, 1), start, device=device
    )  # [B, K]; K is 1 at first, because all beams would be the same
    parents = torch.zeros_like(tokens)  # [B, K]: the beam that each one continues
    scores = torch.zeros((batch, 1), device=device)  # [B, K]: summed log-probabilities
    histories = torch.full((batch, 1, search.max_length), pad, device=device)  # [B, K, max_length]
    finished = torch.zeros(batch, dtype=torch.long, device=device)  # [B]: how many hypotheses
    best = torch.full((batch,), -torch.inf, device=device)  # [B]: the best finished one's score,
    best_history = torch.full((batch, search.max_length), pad, device=device)  # [B, max_length] and tokens
    scratch: Tensor | None = None
    for length in range(1, search.max_length + 1):
        logits = decoder.step(tokens, parents)  # [B, K, V]
        for token in [*never, end] if length == 1 else never:
            logits[:, :, token] = -torch.inf
        if beam > 1 and (scratch is None or scratch.shape[1] < logits.shape[1]):
            scratch = torch.empty_like(logits)
        room = None if scratch is None else scratch[: len(sentences)]
        top, top_parents, top_tokens = best_continuations(logits, scores, 2 * beam, room)  # [B, 2 K]
        ends = top_tokens == end if length < search.max_length else torch.ones_like(top_tokens, dtype=torch.bool)

        # Those that end, unless they come after the sentence was done.
        done = finished >= beam
        ended = ends[:, :beam] & ~done.unsqueeze(1)  # [B, K]
        if ended.any():
            ranked = (top[:, :beam] / length**search.length_penalty).masked_fill_(~ended, -torch.inf)
            leader, place = ranked.max(dim=1)  # [B]
            better = leader > best
            rows = better.nonzero().squeeze(1)
            place = place[rows]
            best[rows] = leader[rows]
            best_history[rows] = histories[rows, top_parents[rows, place]]
            best_history[rows, length - 1] = top_tokens[rows, place]
            finished += ended.sum(dim=1)
            done = finished >= beam

        # Those that go on: the best K others, in their order.
        going = top.masked_fill(ends, -torch.inf).topk(beam, dim=1).indices  # [B, K]
        scores, parents, tokens = (found.gather(1, going) for found in (top, top_parents, top_tokens))
        histories = histories.gather(1, parents.unsqueeze(2).expand(-1, -1, search.max_length))
        histories[:, :, length - 1] = tokens

        leaving = int(done.sum())
        if length == search.max_length or leaving == len(sentences):
            _hand_over(hypotheses, sentences, best_history, length, pad)
            break
        if leaving * _IDLE_SHARE >= len(sentences):
            gone, stay = done.nonzero().squeeze(1), (~done).nonzero().squeeze(1)
            _hand_over(hypotheses, sentences[gone], best_history[gone], length, pad)
            decoder.keep(stay)
            sentences, tokens, parents, scores = sentences[stay], tokens[stay], parents[stay], scores[stay]
            histories, finished = histories[stay], finished[stay]
            best, best_history = best[stay], best_history[stay]
    return hypotheses


def _padded(sources: list[list[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the sources' ids [B, S] and where they are."""
    width = max(map(len, sources))
    ids = torch.tensor([source + [pad] * (width - len(source)) for source in sources], device=device)
    lengths = torch.tensor([len(source) for source in sources], device=device)
    return ids, torch.arange(width, device=device) < lengths.unsqueeze(1)


def _hand_over(hypotheses: list[list[int]], sentences: Tensor, histories: Tensor, length: int, pad: int) -> None:
    """Write finished sentences [n] with their tokens [n, max_length] into the answer."""
    for sentence, history in zip(sentences.tolist(), histories[:, :length].tolist(), strict=True):
        hypotheses[sentence] = history[: history.index(pad)] if pad in history else history


def best_continuations(logits: Tensor, scores: Tensor, count: int, scratch: Tensor | None) -> tuple[Tensor, ...]:
    """Return the `count` best of all beams' continuations in their order: scores, beams and tokens, [B, count] each.

    `logits` are [B, K, V]; a continuation scores its beam's score [B, K] plus its token's log-probability, which is not
    computed where the scratch space [B, K, V] is None: a beam that is alone is not compared with others.

    A partial sort of all K V numbers would take longer than the model. The best `count` lie in those `count` columns of
    a folded vocabulary whose largest numbers are largest, so that few are left to sort.
    """
    vocabulary = logits.shape[2]
    # Column j is tokens j, j + columns, j + 2 columns, ... In whole vectors of the processor: 89 take thrice as long as 96.
    columns = min(max(32, 32 * round(math.sqrt(2 * vocabulary) / 32), count), vocabulary)
    folds = vocabulary // columns
    rest = vocabulary - folds * columns
    largest = logits[:, :, : folds * columns].unflatten(2, (folds, columns)).amax(dim=2)  # [B, K, columns]
    if rest:
        largest[:, :, :rest] = torch.maximum(largest[:, :, :rest], logits[:, :, folds * columns :])
    if scratch is not None:
        shift = largest.amax(dim=2, keepdim=True)  # [B, K, 1]
        total = torch.sub(logits, shift, out=scratch).exp_().sum(dim=2)  # in half the time of torch.logsumexp
        scores = scores - shift.squeeze(2) - total.log_()
    found = (largest + scores.unsqueeze(2)).flatten(1).topk(count, dim=1).indices  # [B, count]
    beams, column = found // columns, found % columns

    fold = torch.arange(folds + bool(rest), device=logits.device) * columns
    tokens = column.unsqueeze(2) + fold  # [B, count, folds]
    places = beams.unsqueeze(2) * vocabulary + tokens.clamp(max=vocabulary - 1)
    values = logits.flatten(1).gather(1, places.flatten(1)).view_as(tokens) + scores.gather(1, beams).unsqueeze(2)
    if rest:
        values.masked_fill_(tokens >= vocabulary, -torch.inf)
    top, place = values.flatten(1).topk(count, dim=1)  # [B, count]
    return top, beams.gather(1, place // len(fold)), tokens.flatten(1).gather(1, place)
