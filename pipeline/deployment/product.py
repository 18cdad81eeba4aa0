"""A directory that translates: exported in any form, a model directory of ours, or an imported one.

Opening an export for CTranslate2 loads neither torch nor transformers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.corpora.cleaning import normalise
from pipeline.deployment.forms import FORMS, PACKED, TRANSFORMERS, Form, deployed_form, export_record
from pipeline.deployment.imports import is_imported
from pipeline.engines.batches import batches_of_like_length
from pipeline.engines.search import BeamSearch, Engine, EngineRefusal
from pipeline.errors import StudyError
from pipeline.files import read_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BATCH_TOKENS = 1000
TARGET = "target"
"""The folder of the target's tokenizer where it is not the source's, as in pipeline.corpora.tokenizers_of."""

OWN = "torch"
"""Our own decoder runs every model."""

ENCODERS = {
    "classification": "a classifier, which tells classes apart",
    "masked_lm": "an encoder that predicts masked words",
}
"""What a run.json's task says of models that are none of translation."""

DEFAULT_SEARCH = BeamSearch(beam=4, length_penalty=1.0, max_length=80)
"""For a model directory that names none."""


@dataclass(frozen=True, kw_only=True)
class Translation:
    """One line's translation; `cut` where the line had more tokens than the model has positions and lost its end."""

    text: str
    cut: bool


@dataclass(frozen=True, kw_only=True)
class Product:
    """An engine with its tokenizer: text in, text out. `search` is what the directory asks for."""

    engine: Engine
    source_tokenizer: Tokenizer
    target_tokenizer: Tokenizer
    positions: int
    search: BeamSearch
    note: str | None = None
    """What the user should know of the choice of the engine."""
    nfc: bool = True
    """Whether text is brought into Unicode NFC, as a study's corpora are; imported models learnt from text as it is."""
    ahead: int = 0
    """Batches that are given to the engine before the first is waited for: what it can work on at a time, and more."""

    def search_with(
        self, *, beam: int | None = None, length_penalty: float | None = None, max_length: int | None = None
    ) -> BeamSearch:
        """Return the directory's search with some settings changed; StudyError on what the model cannot do."""
        default = self.search
        search = BeamSearch(
            beam=default.beam if beam is None else beam,
            length_penalty=default.length_penalty if length_penalty is None else length_penalty,
            max_length=min(default.max_length, self.positions) if max_length is None else max_length,
        )
        if search.beam < 1:
            raise StudyError(f"beam is {search.beam}; give at least 1")
        if not 1 <= search.max_length <= self.positions:
            raise StudyError(
                f"max_length is {search.max_length}; the model has positions for 1 to {self.positions} tokens"
            )
        return search

    def translate(
        self,
        lines: Sequence[str],
        search: BeamSearch,
        *,
        batch_tokens: int = BATCH_TOKENS,
        done: Callable[[int], object] | None = None,
    ) -> list[Translation]:
        """Translate lines, one for one; an empty line stays empty.

        A line's text is normalised as the corpus was: single spaces, and Unicode NFC where the model is not imported.
        `batch_tokens` bounds the padded source tokens of a batch. `done` is told how many lines more are translated, batch
        by batch.
        """
        tell = done or (lambda count: None)
        texts = [normalise(line) if self.nfc else " ".join(line.split()) for line in lines]
        filled = [number for number, text in enumerate(texts) if text]
        results = [Translation(text="", cut=False)] * len(texts)
        tell(len(texts) - len(filled))
        if not filled:
            return results
        encoded = [row.ids for row in self.source_tokenizer.encode_batch_fast([texts[number] for number in filled])]
        cut = [len(ids) > self.positions for ids in encoded]
        encoded = [ids if len(ids) <= self.positions else ids[: self.positions - 1] + ids[-1:] for ids in encoded]
        hypotheses: list[list[int]] = [[]] * len(encoded)
        pending: deque[tuple[list[int], list[Any]]] = deque()

        def collect_all_but(count: int) -> None:
            while len(pending) > count:
                batch, handles = pending.popleft()
                for i, handle in zip(batch, handles, strict=True):
                    hypotheses[i] = self.engine.collect(handle)
                tell(len(batch))

        for batch in batches_of_like_length([len(ids) for ids in encoded], batch_tokens):
            pending.append((batch, self.engine.submit([encoded[i] for i in batch], search)))
            collect_all_but(self.ahead)
        collect_all_but(0)
        decoded = self.target_tokenizer.decode_batch(hypotheses, skip_special_tokens=True)
        for number, text, lost in zip(filled, decoded, cut, strict=True):
            results[number] = Translation(text=" ".join(text.splitlines()).strip(), cut=lost)
        return results


def read_tokenizer(directory: Path) -> Tokenizer:
    """Return the tokenizer of tokenizer.json, which neither cuts nor pads; StudyError when it is missing or damaged."""
    from tokenizers import Tokenizer

    path = directory / "tokenizer.json"
    if not path.is_file():
        raise StudyError(f"{path}: no such file; a model directory needs its tokenizer to translate")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise StudyError(
            f"{path}: damaged ({' '.join(str(error).split())[:120]}); write the directory again"
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def search_of(directory: Path) -> BeamSearch:
    """Return the search that generation_config.json names; `DEFAULT_SEARCH` for what it does not."""
    path = directory / "generation_config.json"
    given = read_json(path) if path.is_file() else {}
    longest = given.get("max_new_tokens")
    if longest is None and "num_beams" in given and "max_length" in given:
        longest = given["max_length"] - 1  # transformers counts the start token; alone, max_length is no one's choice
    return BeamSearch(
        beam=given.get("num_beams") or DEFAULT_SEARCH.beam,
        length_penalty=given.get("length_penalty", DEFAULT_SEARCH.length_penalty),
        max_length=longest or DEFAULT_SEARCH.max_length,
    )


def open_product(directory: str | Path, *, engine: str | None = None, threads: int = 1) -> Product:
    """Open a directory for translation.

    `engine` names one of pipeline.engines.registry for a model directory (default: the one that such a model is deployed
    in, or our own decoder where that one refuses the model); an export has its own. `threads`: batches at a time in
    CTranslate2, threads of one batch elsewhere. StudyError on a directory that is no model, damaged, or not whole.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise StudyError(f"{directory}: no such directory; give one that `tlc export` wrote, or a model directory")
    if threads < 1:
        raise StudyError(f"threads is {threads}; give at least 1")
    run = read_json(directory / "run.json") if (directory / "run.json").is_file() else {}
    if isinstance(run, dict) and run.get("task") in ENCODERS:
        raise StudyError(f"{directory}: {ENCODERS[run['task']]}, and translates nothing; README.md says how it is run")
    record = export_record(run)
    if record is None:
        return _open_model(directory, run, engine, threads)
    form = FORMS.get(str(record.get("form")))
    if form is None:
        raise StudyError(f"{directory}: exported in a form that this program does not know; export it again")
    _check_whole(directory, record)
    if form.name in (PACKED, TRANSFORMERS):
        return _open_model(directory, run, engine, threads)
    if engine not in (None, form.name):
        raise StudyError(f"{directory}: exported for {form.name}; for {engine!r}, export it with --engine {engine}")
    return _product(directory, run, _open_engine(directory, form, threads), int(record["positions"]), threads)


def _check_whole(directory: Path, record: dict[str, Any]) -> None:
    for name, size in record.get("files", {}).items():
        path = directory / name
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            state = "missing" if found is None else f"{found} bytes, not the {size} that were written"
            raise StudyError(f"{path}: {state}; export the model again")


def _product(
    directory: Path, run: Any, engine: Engine, positions: int, threads: int, note: str | None = None
) -> Product:
    source = read_tokenizer(directory)
    separate = (directory / TARGET).is_dir()
    return Product(
        engine=engine,
        source_tokenizer=source,
        target_tokenizer=read_tokenizer(directory / TARGET) if separate else source,
        positions=positions,
        search=search_of(directory),
        note=note,
        nfc=not (isinstance(run, dict) and is_imported(run)),
        ahead=4 * threads if _several_batches(engine.name) else 0,
    )


def _several_batches(engine: str) -> bool:
    """Tell whether an engine works on several batches at a time, one a thread, instead of several threads on one."""
    return engine.startswith("ctranslate2-")


def _open_engine(directory: Path, form: Form, threads: int) -> Engine:
    if form.family == "ctranslate2":
        from pipeline.engines.ctranslate2_engine import CTranslate2Engine

        return CTranslate2Engine.open(directory, batches=threads)
    import torch

    from pipeline.engines.onnxruntime_engine import OnnxRuntimeEngine

    torch.set_num_threads(threads)
    return OnnxRuntimeEngine.open(directory, threads=threads)


def _open_model(directory: Path, run: Any, engine: str | None, threads: int) -> Product:
    """Open a model directory: any kind of weights that `load_model` reads."""
    import torch

    from pipeline.compression.activation_rounding import rounds_inputs
    from pipeline.compression.formats import stored_numbers
    from pipeline.corpora.tokenizers_of import source_and_target
    from pipeline.engines.registry import start_engine
    from pipeline.evaluation.translation import plain

    model = plain(directory)
    deployed = deployed_form(stored_numbers(directory)[0], rounds_inputs=rounds_inputs(model)).name
    chosen = engine or (OWN if deployed == PACKED else deployed)
    torch.set_num_threads(threads)
    source, target = source_and_target(directory)
    note = None
    try:
        running = start_engine(
            chosen,
            model,
            source,
            threads=1 if _several_batches(chosen) else threads,
            batches=threads,
            target_tokenizer=target,
        )
    except EngineRefusal as refusal:
        if engine is not None:
            raise
        note = f"{refusal}; going on with engine {OWN!r}"
        running = start_engine(OWN, model, source, target_tokenizer=target)
    return _product(directory, run, running, model.config.max_position_embeddings, threads, note)
