"""What a corpus is encoded with: a tokenizer learnt from it, or those of a model that is trained already."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.corpora.tokenizer import BOS_ID, EOS_ID, PAD_ID
from pipeline.corpora.tokenizers_of import save_tokenizers, source_and_target
from pipeline.errors import StudyError
from pipeline.files import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_MOST_TOKENS = 1 << 16  # ids are 16 bits


@dataclass(frozen=True, kw_only=True)
class Tokenizers:
    """The tokenizers of both sides, the same object where there is one for both, and what the decoder begins with."""

    source: PreTrainedTokenizerFast
    target: PreTrainedTokenizerFast
    start_id: int = BOS_ID
    kind: str = "joint byte-level BPE"

    @classmethod
    def of_model(cls, directory: str | Path, *, vocab_size: int) -> Tokenizers:
        """Return a model directory's; StudyError where a corpus cannot be encoded for that model.

        `vocab_size`: what the corpus is said to have, of the target.
        """
        directory = Path(directory)
        config = read_json(directory / "config.json")
        for name, wanted in (("pad_token_id", PAD_ID), ("eos_token_id", EOS_ID)):
            if config.get(name) != wanted:
                raise StudyError(f"{directory}: {name} is {config.get(name)}; batches here are made with {wanted}")
        source, target = source_and_target(directory)
        longest = max(len(source), len(target))
        if longest > _MOST_TOKENS:
            raise StudyError(
                f"{directory}: {longest} tokens; a prepared corpus holds ids of 16 bits, {_MOST_TOKENS} at most"
            )
        if len(target) != vocab_size:
            raise StudyError(
                f"{directory}: its tokenizer has {len(target)} tokens; set corpus.vocab_size: {len(target)}"
            )
        return cls(
            source=source, target=target, start_id=config["decoder_start_token_id"], kind="a trained model's own"
        )

    def facts(self) -> dict[str, str | int]:
        """Return what the corpus' card says of them; the target's vocabulary, and the source's where it is another."""
        found: dict[str, str | int] = {"kind": self.kind, "vocab_size": len(self.target)}
        if self.start_id != BOS_ID:
            found["start_id"] = self.start_id
        return found if self.target is self.source else found | {"source_vocab_size": len(self.source)}

    def save(self, directory: Path) -> None:
        """Write them where `pipeline.corpora.tokenizers_of.source_and_target` finds them."""
        save_tokenizers(directory, self.source, self.target)
