"""From source lines to hypothesis lines, one for one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.engines.batches import batches_of_like_length
from pipeline.engines.registry import start_engine
from pipeline.engines.search import BeamSearch, Engine
from pipeline.errors import StudyError
from pipeline.progress import progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from pipeline.models.seq2seq import Model


def encode_sources(tokenizer: PreTrainedTokenizerFast, sources: list[str], *, max_tokens: int) -> list[list[int]]:
    """Return each line's ids with </s>; a line of more than `max_tokens` (the model's positions) loses its end."""
    if not sources:
        return []
    encoded: list[list[int]] = tokenizer(sources, truncation=True, max_length=max_tokens)["input_ids"]
    if any(ids[-1:] != [tokenizer.eos_token_id] for ids in encoded):
        raise StudyError("the tokenizer does not end a source with </s>; use the one that the prepare stage wrote")
    return encoded


def decode_targets(tokenizer: PreTrainedTokenizerFast, hypotheses: list[list[int]]) -> list[str]:
    """Return one line of text a hypothesis, without special tokens and without line breaks."""
    texts: list[str] = tokenizer.batch_decode(hypotheses, skip_special_tokens=True)
    return [" ".join(text.splitlines()).strip() for text in texts]


def check_search(model: Model, search: BeamSearch) -> None:
    """Raise StudyError on a beam or a length that the model cannot do."""
    if search.beam < 1:
        raise StudyError(f"beam is {search.beam}; give at least 1")
    positions = model.config.max_position_embeddings
    if not 1 <= search.max_length <= positions:
        raise StudyError(f"max_length is {search.max_length}; the model has positions for 1 to {positions} tokens")


def translate(
    model: Model,
    tokenizer: PreTrainedTokenizerFast,
    sources: list[str],
    *,
    beam: int = 4,
    length_penalty: float = 1.0,
    max_length: int = 80,
    engine: str | Engine = "ctranslate2-float32",
    batch_tokens: int = 1000,
    threads: int = 1,
) -> list[str]:
    """Translate lines by beam search: the i-th hypothesis belongs to the i-th source, and an empty line stays empty.

    A hypothesis has at most `max_length` tokens, </s> included, and ranks by log-probability / length^length_penalty.
    `engine` is a name, or an engine that runs `model` already. `batch_tokens` bounds padded source tokens a batch.
    `threads` work on as many batches at a time in CTranslate2, and on one batch in ONNX Runtime; transformers and our own
    decoder use torch's own setting. StudyError on an unknown engine and on numbers out of range.
    """
    if batch_tokens < 1 or threads < 1:
        raise StudyError(f"batch_tokens {batch_tokens} and threads {threads} must be at least 1")
    search = BeamSearch(beam=beam, length_penalty=length_penalty, max_length=max_length)
    check_search(model, search)
    filled = [number for number, line in enumerate(sources) if line.strip()]
    hypotheses = [""] * len(sources)
    if not filled:
        return hypotheses

    encoded = encode_sources(
        tokenizer, [sources[number] for number in filled], max_tokens=model.config.max_position_embeddings
    )
    if isinstance(engine, str):
        one_batch = 1 if engine.startswith("ctranslate2-") else threads  # the others work on one batch at a time
        engine = start_engine(engine, model, tokenizer, threads=one_batch, batches=threads)
    handles: dict[int, Any] = {}
    with progress(total=len(filled), desc="translate", unit="sentence") as bar:
        for batch in batches_of_like_length([len(ids) for ids in encoded], batch_tokens):
            handles.update(zip(batch, engine.submit([encoded[i] for i in batch], search), strict=True))
            bar.update(len(batch))
        results = [engine.collect(handles[i]) for i in range(len(encoded))]
    for number, text in zip(filled, decode_targets(tokenizer, results), strict=True):
        hypotheses[number] = text
    return hypotheses
