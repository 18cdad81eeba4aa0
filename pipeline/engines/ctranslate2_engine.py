"""CTranslate2: what a translation model is deployed in. Weights in fp32, int16 or int8, on a CPU.

A directory that was converted before is opened without torch and transformers, whose import takes seconds.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import ctranslate2

from pipeline.engines.search import BeamSearch, EngineRefusal
from pipeline.errors import StudyError
from pipeline.files import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from pipeline.models.seq2seq import Model

_FILES = ("model.bin", "config.json", "*_vocabulary.json")


def _check_processor(weights: str) -> None:
    """Raise EngineRefusal where CTranslate2 would take another type than `weights`, in silence."""
    if weights not in ctranslate2.get_supported_compute_types("cpu"):
        raise EngineRefusal(
            f"CTranslate2 cannot compute in {weights} on this processor; use engine 'ctranslate2-float32'"
        )


def _vocabulary(directory: Path, side: str) -> list[str]:
    """Return the tokens of a side in the order of their ids."""
    own = directory / f"{side}_vocabulary.json"
    return list(read_json(own if own.is_file() else directory / "shared_vocabulary.json"))


class CTranslate2Engine:
    """Beam search in CTranslate2; the products of matrices are of the type that the weights are of.

    `size_bytes` is the size of its files: weights, configuration, vocabularies.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: PreTrainedTokenizerFast,
        *,
        weights: str = "float32",
        inter_threads: int = 1,
        intra_threads: int = 1,
        target_tokenizer: PreTrainedTokenizerFast | None = None,
    ) -> None:
        """Convert a model in memory; `inter_threads` batches at a time, `intra_threads` each.

        EngineRefusal where this processor cannot compute in `weights`, and as pipeline.engines.ctranslate2_conversion.
        """
        from pipeline.engines.ctranslate2_conversion import convert

        _check_processor(weights)
        with tempfile.TemporaryDirectory(prefix="ctranslate2-") as scratch:
            convert(model, tokenizer, scratch, weights=weights, target_tokenizer=target_tokenizer)
            self._start(Path(scratch), inter_threads=inter_threads, intra_threads=intra_threads)

    @classmethod
    def open(cls, directory: str | Path, *, threads: int = 1, batches: int = 1) -> Self:
        """Run a directory that `pipeline.engines.ctranslate2_conversion.convert` wrote; errors name it.

        `threads` work on one batch, on `batches` batches at a time. EngineRefusal where this processor cannot compute in
        the type of its weights; StudyError when the directory is damaged or another program's.
        """
        engine = cls.__new__(cls)
        engine._start(Path(directory), inter_threads=batches, intra_threads=threads)
        return engine

    def _start(self, directory: Path, *, inter_threads: int, intra_threads: int) -> None:
        config = read_json(directory / "config.json")
        weights = config.get("weights") if isinstance(config, dict) else None
        if not isinstance(weights, str):
            raise StudyError(f"{directory}: not a CTranslate2 model that this project wrote; convert the model again")
        _check_processor(weights)
        self.name = f"ctranslate2-{weights}"
        self.size_bytes = sum(path.stat().st_size for name in _FILES for path in directory.glob(name))
        self.source_tokens = _vocabulary(directory, "source")
        self.target_ids = {token: number for number, token in enumerate(_vocabulary(directory, "target"))}
        self.never_produced = [[token] for token in config["never_produced"]]
        try:
            self.translator = ctranslate2.Translator(
                str(directory),
                device="cpu",
                compute_type=weights,
                inter_threads=inter_threads,
                intra_threads=intra_threads,
            )
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:160]
            raise StudyError(f"{directory}: CTranslate2 cannot open it ({reason}); convert the model again") from error

    def submit(self, sources: list[list[int]], search: BeamSearch) -> list[Any]:
        """Queue one batch; waits while the queue is full."""
        return list(
            self.translator.translate_batch(
                [[self.source_tokens[number] for number in source] for source in sources],
                beam_size=search.beam,
                # Exactly 0 would turn on another rule for when to stop (as soon as the best beam is finished).
                length_penalty=search.length_penalty or 1e-9,
                min_decoding_length=1,
                max_decoding_length=search.max_length,
                max_input_length=0,  # sources are cut before, so that all engines see the same
                suppress_sequences=self.never_produced,
                asynchronous=True,
            )
        )

    def collect(self, handle: Any) -> list[int]:
        """Wait for a sentence's result."""
        return [self.target_ids[token] for token in handle.result().hypotheses[0]]
