"""Model directories: saving with provenance, loading with one clear line on damage."""

from __future__ import annotations

import functools
import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.errors import StudyError
from pipeline.files import atomic_path, read_json

if TYPE_CHECKING:
    from transformers.models.m2m_100 import M2M100ForConditionalGeneration

WEIGHTS = "model.safetensors"

NOT_STATED = "not stated"
"""What a card says of a model's data where nobody knows."""


class Tokenizer(Protocol):
    """What a model directory needs of a tokenizer."""

    def save_pretrained(self, directory: Any, /) -> Any:
        """Write its files into `directory`."""
        ...


@functools.cache
def provenance() -> dict[str, Any]:
    """Return the versions and the git revision that `run.json` records."""
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        ).stdout.strip()
    except OSError:  # no git here
        answer = ""
    packages = ("torch", "transformers", "tokenizers", "safetensors", "numpy")
    return {
        "versions": {name: version(name) for name in packages},
        "git_revision": answer or None,
    }


AUTO_CLASSES = {
    "translation": "AutoModelForSeq2SeqLM",
    "masked_lm": "AutoModelForMaskedLM",
    "classification": "AutoModelForSequenceClassification",
}
"""transformers' class that loads a plain model of each task."""


def _kind_of_model(task: str, size: dict[str, Any], corpus: dict[str, Any]) -> str:
    if task == "masked_lm":
        return "An encoder that predicts masked tokens"
    if task == "classification":
        return f"An encoder that tells sentences of {size['num_labels']} classes apart"
    languages = (corpus["source_lang"], corpus["target_lang"])
    pair = "" if NOT_STATED in languages else f"{languages[0]}-{languages[1]} "
    return f"A {pair}translation model"


def write_card(directory: Path, run: dict[str, Any], corpus: dict[str, Any], notes: Sequence[str] = ()) -> None:
    """Write README.md: what the model is, what made it, `notes` on it, and the licence and credit of its data."""
    from pipeline.models.pruned import is_heads_pruned

    size, task = run["size"], run["task"]
    loading = (
        f"Load it with `{AUTO_CLASSES[task]}.from_pretrained(directory)`."
        if (directory / WEIGHTS).is_file() and not is_heads_pruned(read_json(directory / "config.json"))
        else "Load it with `pipeline.compression.formats.load_model(directory)`: its weights are packed, or its heads pruned."
    )
    lines = [
        f"# {run['run_id']}",
        "",
        f"{_kind_of_model(task, size, corpus)}: width {size['d_model']}, "
        f"{size['num_layers']}{'+' + str(size['num_layers']) if task == 'translation' else ''} layers, "
        f"{size['num_heads']} heads, FFN {size['ffn_dim']}, vocabulary {size['vocab_size']}.",
        "",
        f"- made by: study `{run['study']}`, budget {run['budget']}, method {run['method']}, recipe {run['recipe']}, seed {run['seed']}",
        f"- {loading}",
        *(f"- {note}" for note in notes),
        f"- data licence: {corpus['license']}",
        f"- data credit: {corpus['credit']}",
        "- what it cost, and on what: `run.json`",
        "",
    ]
    (directory / "README.md").write_text("\n".join(lines), encoding="utf-8")


@contextmanager
def model_directory(path: Path, *, tokenizer: Tokenizer, run: dict[str, Any], corpus: dict[str, Any]) -> Iterator[Path]:
    """Yield a temporary directory for the weights; complete it with tokenizer, run.json and card, and put it at `path`."""
    with atomic_path(path) as temporary:
        temporary.mkdir(parents=True)
        yield temporary
        tokenizer.save_pretrained(temporary)
        record = json.dumps(run | provenance(), indent=2, sort_keys=True, allow_nan=False)
        (temporary / "run.json").write_text(record + "\n", encoding="utf-8")
        write_card(temporary, run, corpus)


def save_dense(
    model: M2M100ForConditionalGeneration,
    path: Path,
    *,
    tokenizer: Tokenizer,
    run: dict[str, Any],
    corpus: dict[str, Any],
) -> None:
    """Save an fp32 model as a complete directory: plain `AutoModelForSeq2SeqLM.from_pretrained` loads it."""
    from pipeline.models.architectures import save_plain

    with model_directory(path, tokenizer=tokenizer, run=run, corpus=corpus) as temporary:
        save_plain(model, temporary)


def load_dense(directory: str | Path) -> M2M100ForConditionalGeneration:
    """Load an uncompressed model of a standard shape, the study's or an imported one, in eval mode with eager attention.

    StudyError on a missing or damaged checkpoint, on another architecture, and on pruned heads, which transformers'
    classes cannot hold.
    """
    from safetensors import SafetensorError

    from pipeline.models.architectures import CONFIGURATIONS, class_of, kind_of_config, recognise
    from pipeline.models.parameters import stored_parameters
    from pipeline.models.pruned import is_heads_pruned

    directory = Path(directory)
    config = read_json(directory / "config.json")
    kind = kind_of_config(config, directory / "config.json")
    if is_heads_pruned(config):
        raise StudyError(
            f"{directory}: its attention heads were pruned, a shape that transformers cannot say; it loads through "
            "pipeline.compression.formats.load_model"
        )
    if not (directory / WEIGHTS).is_file():
        raise StudyError(f"{directory / WEIGHTS}: no such file; run the stage that writes it (dvc repro)")
    try:
        model: M2M100ForConditionalGeneration
        model, told = class_of(CONFIGURATIONS[kind].from_dict(config)).from_pretrained(
            directory, attn_implementation="eager", local_files_only=True, output_loading_info=True
        )
    except (SafetensorError, RuntimeError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())[:160]
        raise StudyError(
            f"{directory / WEIGHTS}: the checkpoint is damaged ({reason}); delete {directory} and rerun its stage"
        ) from error
    drawn = [name for name in stored_parameters(model) if name in told["missing_keys"]]
    if drawn:  # by transformers, at random
        raise StudyError(
            f"{directory / WEIGHTS}: the checkpoint is of another model, or damaged: it has no {drawn[0]}; give another "
            f"model, or delete {directory} and rerun its stage"
        )
    recognise(model, directory)
    return model.eval()


def read_run(directory: str | Path) -> dict[str, Any]:
    """Return a model directory's run.json."""
    return dict(read_json(Path(directory) / "run.json"))
