"""A classifier written as a product: weights, tokenizer, names of its classes, card."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.deployment.classifier_card import ClassifierFacts, classifier_card
from pipeline.deployment.conversion import write_classifier
from pipeline.deployment.directory import sizes_of, versions_of, write_tokenizers
from pipeline.deployment.forms import PACKED, Form
from pipeline.deployment.measurements import read_measurements
from pipeline.deployment.snippets import classifier_snippet
from pipeline.deployment.sources import Source
from pipeline.encoder_flops import UNUSED_POSITIONS
from pipeline.files import read_json, write_json

if TYPE_CHECKING:
    from pipeline.models.seq2seq import Model

SENTENCE = "worth every minute"
"""What the snippet classifies where the study's corpus is not at hand."""


@dataclass(frozen=True, kw_only=True)
class ClassifierExport:
    """One classifier to export; `model` is as engines take it."""

    source: Source
    model: Model

    @property
    def max_tokens(self) -> int:
        """The most tokens of a text that are read: what the corpus cut its sentences to, else the model's positions."""
        config: Any = self.model.config
        positions = int(config.max_position_embeddings) - UNUSED_POSITIONS
        return min(positions, (self.source.corpus or {}).get("max_tokens", positions))

    @property
    def _corpus(self) -> Path:
        return Path("artifacts", str(self.source.run.get("study")), "corpus", "sentences")

    @property
    def names(self) -> list[str] | None:
        """The classes' names, where the study's corpus is at hand and says them."""
        path = self._corpus / "card.json"
        if self.source.corpus is None or not path.is_file():
            return None
        return read_json(path).get("class_names")

    def _sentence(self) -> str:
        path = self._corpus / "test.txt"
        if self.source.corpus is None or not path.is_file():
            return SENTENCE
        with path.open(encoding="utf-8") as lines:
            return next(lines, SENTENCE).rstrip("\n")

    def code(self, form: Form, directory: Path) -> str:
        """Return the lines that classify a sentence with an export at `directory`."""
        return classifier_snippet(form, names=self.names, sentence=self._sentence(), directory=directory)

    def write(self, form: Form, directory: Path, *, results: Path | None) -> None:
        """Write everything into `directory`; EngineRefusal where the form cannot hold the model."""
        from pipeline.compression.formats import size_bytes
        from pipeline.corpora.tokenizer import load_tokenizer

        source, names = self.source, self.names
        write_classifier(form, self.model, source.directory, directory)
        if names is not None:
            config = read_json(directory / "config.json")
            config["id2label"] = dict(enumerate(names))
            config["label2id"] = {name: number for number, name in enumerate(names)}
            write_json(directory / "config.json", config)
        write_tokenizers(directory, load_tokenizer(source.directory), max_tokens=self.max_tokens)
        files = sizes_of(directory)
        record = {"form": form.name, "max_tokens": self.max_tokens, "files": files, "versions": versions_of(form)}
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
        card = classifier_card(
            ClassifierFacts(
                source=source,
                form=form,
                measurements=measurements,
                files=files,
                shape=self._shape(),
                positions=self.max_tokens,
                code=self.code(form, Path(".")),
                classes=self.model.config.num_labels,
                names=names,
            )
        )
        (directory / "README.md").write_text(card, encoding="utf-8")

    def _shape(self) -> str:
        config: Any = self.model.config
        return (
            f"an encoder of width {config.hidden_size}, {config.num_hidden_layers} layers, "
            f"{config.num_attention_heads} heads, FFN {config.intermediate_size}, vocabulary {config.vocab_size}"
        )
