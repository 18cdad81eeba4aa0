"""A translation model written as a product: weights, tokenizers, the settings of its search, card."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.deployment.conversion import generation_settings, never_produced, write_weights
from pipeline.deployment.directory import sizes_of, versions_of, write_tokenizers
from pipeline.deployment.forms import PACKED, Form
from pipeline.deployment.measurements import read_measurements
from pipeline.deployment.model_card import CardFacts, model_card
from pipeline.deployment.product import search_of
from pipeline.deployment.snippets import snippet
from pipeline.deployment.sources import Source
from pipeline.engines.search import BeamSearch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from pipeline.models.seq2seq import Model

SENTENCE = "How are you?"
"""What the snippet translates where the study's corpus is not at hand."""


@dataclass(frozen=True, kw_only=True)
class TranslationExport:
    """One translation model to export; `model` is as engines take it."""

    source: Source
    model: Model

    @cached_property
    def tokenizers(self) -> tuple[PreTrainedTokenizerFast, PreTrainedTokenizerFast]:
        """Those of source and target; the same object where there is one for both."""
        from pipeline.corpora.tokenizers_of import source_and_target

        return source_and_target(self.source.directory)

    @cached_property
    def search(self) -> BeamSearch:
        """The study's search, else the directory's own, within the model's positions."""
        given = self.source.search
        search = BeamSearch(**given) if given else search_of(self.source.directory)
        longest = min(search.max_length, self.model.config.max_position_embeddings)
        return BeamSearch(**asdict(search) | {"max_length": longest})

    def _sentence(self) -> str:
        """Return a sentence of the study's test set, or `SENTENCE`."""
        path = Path("artifacts", str(self.source.run.get("study")), "corpus", "test-source.txt")
        if self.source.corpus is None or not path.is_file():
            return SENTENCE
        with path.open(encoding="utf-8") as lines:
            return next(lines, SENTENCE).strip()

    def code(self, form: Form, directory: Path) -> str:
        """Return the lines that translate a sentence with an export at `directory`."""
        source, target = self.tokenizers
        return snippet(
            form,
            self.search,
            suppressed=never_produced(target),
            sentence=self._sentence(),
            directory=directory,
            separate=target is not source,
        )

    def write(self, form: Form, directory: Path, *, results: Path | None) -> None:
        """Write everything into `directory`; EngineRefusal where the form cannot hold the model."""
        from pipeline.compression.formats import size_bytes

        source, search, positions = self.source, self.search, self.model.config.max_position_embeddings
        write_weights(form, self.model, self.tokenizers, source.directory, directory)
        generation_settings(self.model, self.tokenizers[1], search).save_pretrained(directory)
        write_tokenizers(directory, *self.tokenizers, max_tokens=positions)
        files = sizes_of(directory)
        record = {
            "form": form.name,
            "positions": positions,
            "search": asdict(search),
            "files": files,
            "versions": versions_of(form),
        }
        text = json.dumps(
            source.run | {"export": record}, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False
        )
        (directory / "run.json").write_text(text + "\n", encoding="utf-8")
        measurements = read_measurements(
            results,
            source.run_id,
            engine="torch" if form.name == PACKED else form.name,
            size_bytes=size_bytes(source.directory),
            unmeasured=source.unmeasured,
        )
        card = model_card(
            CardFacts(
                source=source,
                form=form,
                measurements=measurements,
                files=files,
                shape=self._shape(),
                positions=positions,
                max_length=search.max_length,
                beam=search.beam,
                code=self.code(form, Path(".")),
            )
        )
        (directory / "README.md").write_text(card, encoding="utf-8")

    def _shape(self) -> str:
        config = self.model.config
        return (
            f"width {config.d_model}, {config.encoder_layers}+{config.decoder_layers} layers, "
            f"{config.encoder_attention_heads} heads, FFN {config.encoder_ffn_dim}, vocabulary {config.vocab_size}"
        )
