"""A directory that an export is written to: what may be replaced, what the disk refuses, what stands beside the weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.deployment.forms import Form, export_record
from pipeline.errors import StudyError
from pipeline.files import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def check_target(directory: Path, *, overwrite: bool) -> None:
    """Raise StudyError where something stands that would be lost: of an earlier export, all that it did not write."""
    if directory.is_symlink() or directory.is_file():
        raise StudyError(f"{directory}: a file or a link stands there; give another directory")
    if Path.cwd().is_relative_to(directory.resolve()):
        raise StudyError(f"{directory}: the current directory is in it, and would be replaced; give another directory")
    if directory.is_dir() and any(directory.iterdir()):
        if not overwrite:
            raise StudyError(f"{directory}: not empty; give another directory, or --overwrite to replace it")
        path = directory / "run.json"
        record = export_record(read_json(path)) if path.is_file() else None
        if record is None:
            raise StudyError(f"{directory}: not something that `tlc export` wrote; remove it yourself, or give another")
        written = {directory / name for name in (*record.get("files", ()), "run.json", "README.md")}
        folders = {folder for file in written for folder in file.parents}
        for found in sorted(directory.rglob("*")):
            if found not in (folders if found.is_dir() and not found.is_symlink() else written):
                raise StudyError(f"{found}: not written by `tlc export`, and would be lost; move it elsewhere")


@contextmanager
def in_one_line(directory: Path, target: Path) -> Iterator[None]:
    """Turn what the file system refuses into one line; `target` is `directory` in full."""
    try:
        yield
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        place = error.filename and Path(error.filename)
        beside = str(target.parent / f".{target.name}.")  # how atomic_path names what it writes
        if place and not target.is_relative_to(place) and not str(place).startswith(beside):
            raise StudyError(f"{place}: cannot be read ({error.strerror}); see to its permissions") from error
        raise StudyError(f"{directory}: cannot be written ({error.strerror}); give another directory") from error


def sizes_of(directory: Path) -> dict[str, int]:
    """Return the bytes of every file under a directory, by its path there."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.stat().st_size for path in files}


def write_tokenizers(directory: Path, *tokenizers: PreTrainedTokenizerFast, max_tokens: int) -> None:
    """Write a model's tokenizers, the source's first, which cut a line at `max_tokens` by themselves in any program."""
    from pipeline.corpora.tokenizers_of import save_tokenizers

    for tokenizer in tokenizers:
        tokenizer.model_max_length = max_tokens
    save_tokenizers(directory, *tokenizers)
    for path in directory.rglob("tokenizer.json"):
        _cut_by_itself(path, max_tokens)


def _cut_by_itself(path: Path, max_tokens: int) -> None:
    """Have the saved tokenizer cut a line at so many tokens, </s> kept, in any program that loads it."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.enable_truncation(max_tokens)
    tokenizer.no_padding()
    tokenizer.save(str(path), pretty=False)


def versions_of(form: Form) -> dict[str, str]:
    """Return the versions of what wrote an export, and of what runs it where that is installed here."""
    found = {}
    for package in ("train-large-then-compress", "torch", "transformers", "tokenizers", *form.packages):
        name = package.partition("[")[0]
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
