"""A small model, briefly trained on a noisy task, so that its beams are undecided and engines can disagree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast

from pipeline.models.seq2seq import BOS, EOS, PAD, build
from pipeline.size import SizeSpec

WORDS = 60
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
FIRST_WORD = len(SPECIAL)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A model with its tokenizer and lines it has not seen."""

    model: Any
    tokenizer: PreTrainedTokenizerFast
    lines: list[str]


def word_tokenizer(
    words: int, *, letter: str = "w", special: tuple[str, str, str, str] = SPECIAL
) -> PreTrainedTokenizerFast:
    """Return a tokenizer of whole words w0, w1, ... behind four special tokens, with the template ``$A </s>``."""
    vocabulary = {token: i for i, token in enumerate((*special, *(f"{letter}{i}" for i in range(words))))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", EOS)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def _batch(generator: np.random.Generator, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sources of random words; targets reverse them, drop or replace some: the right answer is never certain."""
    sources, targets = [], []
    for _ in range(rows):
        source = generator.integers(FIRST_WORD, FIRST_WORD + WORDS, size=generator.integers(2, 9))
        target = source[::-1][generator.random(len(source)) > 0.1]
        noise = generator.integers(FIRST_WORD, FIRST_WORD + WORDS // 4, size=len(target))
        target = np.where(generator.random(len(target)) < 0.15, noise, target)
        sources.append(torch.tensor([*source, EOS]))
        targets.append(torch.tensor([*target, EOS]))
    pad = torch.nn.utils.rnn.pad_sequence
    return pad(sources, batch_first=True, padding_value=PAD), pad(targets, batch_first=True, padding_value=PAD)


def train() -> Trained:
    """Return two encoder and two decoder layers, two heads, 64 words, a few hundred steps; in some seconds."""
    generator = np.random.default_rng(0)
    model = build(SizeSpec(d_model=64, num_layers=2), vocab_size=FIRST_WORD + WORDS, seed=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(200):
        source, target = _batch(generator, 64)
        shifted = torch.cat([torch.full((len(target), 1), BOS), target[:, :-1]], dim=1)
        logits = model(
            input_ids=source, attention_mask=(source != PAD).long(), decoder_input_ids=shifted, use_cache=False
        ).logits
        loss = cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=PAD)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    sources, _ = _batch(generator, 300)
    lines = [" ".join(f"w{i - FIRST_WORD}" for i in row if i >= FIRST_WORD) for row in sources.tolist()]
    return Trained(model=model, tokenizer=word_tokenizer(WORDS), lines=lines)
