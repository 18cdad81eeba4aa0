"""Sequence-level data: the teacher's translations of training sentences, as targets for a student.

What it does: the teacher translates some training sentences by beam search, once for all students, and its translations
take the place of their references; other sentences keep theirs. Training goes on as ever. Decoding is charged to every
student in full.
Source: Kim and Rush 2016, Sequence-Level Knowledge Distillation (arXiv 1606.07947), Section 3.2.
When it helps: a student too small for the data's variety learns the teacher's simpler mode.
When not: when decoding, charged in full, costs more than the steps it replaces; when the loss on references is what
counts, which a student of translations was never trained on.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.corpora.prepared import PreparedCorpus, TokenArray
from pipeline.errors import StudyError
from pipeline.files import atomic_path, read_json, sha256_file, write_json
from pipeline.flops import decode_flops
from pipeline.models.checkpoint import WEIGHTS, read_run
from pipeline.size import SizeSpec

Decode = Callable[[Path, list[str]], list[str]]
"""(model directory, source lines) -> one hypothesis a line."""


def chosen_sentences(count: int, *, available: int) -> np.ndarray:
    """Return the indices, in order, of the training pairs that the teacher translates; the same for every student."""
    if count >= available:
        return np.arange(available)
    return np.sort(np.random.default_rng(0).choice(available, size=count, replace=False))


def write_translations(
    entry: dict[str, Any], *, teacher: str, teacher_path: Path, corpus: PreparedCorpus, out: Path, decode: Decode
) -> str:
    """Translate the chosen training sentences and write `out`: source.txt, hypotheses.txt, indices.npy, teacher.json.

    The price in teacher.json is FLOPs of the beam search at the true lengths, and calibrated seconds a sentence.
    """
    split = corpus.pairs("train")
    indices = chosen_sentences(entry["sentences"], available=len(split))
    lines = split.source_lines()
    sources = [lines[i] for i in indices]
    hypotheses = decode(teacher_path, sources)
    if len(hypotheses) != len(sources):
        raise StudyError(f"{out}: {len(hypotheses)} translations of {len(sources)} sentences; run translate again")
    run = read_run(teacher_path)
    size = SizeSpec.of_record(run["size"])
    tokenizer = corpus.tokenizer()
    lengths = (
        [len(ids) + 1 for ids in tokenizer(hypotheses, add_special_tokens=False)["input_ids"]] if hypotheses else []
    )
    flops = sum(
        decode_flops(
            size,
            source_length=len(split.source[int(i)]) + 1,
            target_length=length,
            beam=entry["beam"],
            vocab_size=corpus.vocab_size,
        )
        for i, length in zip(indices, lengths, strict=True)
    )
    seconds = entry["seconds_per_sentence"][run["size_key"]]
    if seconds is None:
        raise StudyError(
            f"decoding with {run['size_key']} is not calibrated; run `python -m stages.calibrate --study {entry['study']}`"
        )
    with atomic_path(out) as temporary:
        temporary.mkdir(parents=True)
        (temporary / "source.txt").write_text("".join(f"{line}\n" for line in sources), encoding="utf-8")
        (temporary / "hypotheses.txt").write_text("".join(f"{line}\n" for line in hypotheses), encoding="utf-8")
        np.save(temporary / "indices.npy", indices)
        record = {
            "teacher": teacher,
            "teacher_id": run["run_id"],
            "teacher_sha256": sha256_file(teacher_path / WEIGHTS),
            "size": run["size_key"],
            "sentences": len(sources),
            "decode": {"flops": float(flops), "seconds": seconds * len(sources), "tokens": float(sum(lengths))},
            "training": run["ledger"],
        }
        write_json(temporary / "teacher.json", record)
    return f"{out}: {teacher} translated {len(sources)} training sentences"


def sequence_targets(corpus: PreparedCorpus, folder: Path) -> TokenArray:
    """Return the training targets with the teacher's translations in place of the references that it translated."""
    split = corpus.pairs("train")
    indices = np.load(folder / "indices.npy")
    hypotheses = (folder / "hypotheses.txt").read_text(encoding="utf-8").split("\n")[:-1]
    if len(hypotheses) != len(indices):
        raise StudyError(
            f"{folder}: {len(hypotheses)} translations for {len(indices)} sentences; delete it and run translate again"
        )
    encoded = corpus.tokenizer()(hypotheses, add_special_tokens=False)["input_ids"]
    replaced = dict(zip(indices.tolist(), encoded, strict=True))
    rows = [np.asarray(replaced.get(i, split.target[i]), dtype=np.uint16) for i in range(len(split))]
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    return TokenArray(np.concatenate(rows), offsets)


def read_teacher(folder: Path) -> dict[str, Any]:
    """Return teacher.json: who taught, what decoding and its own training cost."""
    return dict(read_json(folder / "teacher.json"))
