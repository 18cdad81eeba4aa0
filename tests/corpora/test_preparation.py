"""Preparing: splits of the asked size that share no sentence, every pair accounted for, the same bytes every time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.corpora.preparation import prepare
from pipeline.corpora.prepared import PreparedCorpus
from pipeline.errors import StudyError
from pipeline.pair_corpus import CorpusSpec

Pair = tuple[str, str]
SpecFactory = Callable[..., CorpusSpec]
WritePairs = Callable[[Path, list[Pair]], Path]


def pairs_of(corpus: PreparedCorpus, name: str) -> set[Pair]:
    split = corpus.split(name)
    rows = zip(split.source_lines(), split.references(), strict=True)
    return {(source, reference) for source, references in rows for reference in references}


def assert_no_leak(corpus: PreparedCorpus) -> None:
    found = {name: pairs_of(corpus, name) for name in ("train", "valid", "test")}
    for one, other in (("train", "valid"), ("train", "test"), ("valid", "test")):
        for side in (0, 1):
            shared = {pair[side] for pair in found[one]} & {pair[side] for pair in found[other]}
            assert not shared, f"{one} and {other} share {sorted(shared)[:3]}"


def test_sizes_and_accounting(corpus: PreparedCorpus, pairs: list[Pair]) -> None:
    assert len(corpus.split("valid")) == 30
    assert len(corpus.split("test")) == 50
    found = [pairs_of(corpus, name) for name in ("train", "valid", "test")]
    assert sum(map(len, found)) == len(pairs)
    assert set().union(*found) == set(pairs)
    counts, splits = corpus.card["counts"], corpus.card["splits"]
    assert counts["kept"] == counts["over_long"] + counts["not_sampled"] + sum(s["pairs"] for s in splits.values())
    assert counts["raw"] == len(pairs)
    assert [splits[name]["entries"] for name in ("train", "valid", "test")] == [len(found[0]), 30, 50]


def test_no_sentence_is_in_two_splits(corpus: PreparedCorpus) -> None:
    assert_no_leak(corpus)


def test_held_out_entries(corpus: PreparedCorpus) -> None:
    split = corpus.split("test")
    sources, references = split.source_lines(), split.references()
    assert len(set(sources)) == len(sources)
    assert [row[0] for row in references] == split.target_lines()
    assert max(map(len, references)) > 1
    components = split.components()
    assert len(components) == 50
    for i, j in zip(*np.triu_indices(50, 1), strict=True):
        if set(references[i]) & set(references[j]):
            assert components[i] == components[j]
    assert corpus.card["splits"]["test"]["components"] == len(set(components.tolist())) < 50


def test_ids_are_the_text(corpus: PreparedCorpus) -> None:
    tokenizer = corpus.tokenizer()
    for name in ("train", "valid", "test"):
        split = corpus.split(name)
        for tokens, lines in ((split.source, split.source_lines()), (split.target, split.target_lines())):
            decoded = [tokenizer.decode(tokens[i], skip_special_tokens=True) for i in range(len(tokens))]
            assert decoded == lines
        assert corpus.card["splits"][name]["source_tokens"] == int(split.source.lengths.sum())


def test_same_bytes_in_another_process(
    corpus: PreparedCorpus, pairs: list[Pair], write_pairs: WritePairs, make_spec: SpecFactory, tmp_path: Path
) -> None:
    spec = make_spec(kind="tsv", path=str(corpus.path.parent / "pairs.tsv"))
    program = (
        "import sys; from pipeline.pair_corpus import CorpusSpec; from pipeline.corpora.preparation import prepare; "
        "prepare(CorpusSpec.model_validate_json(sys.argv[1]), sys.argv[2])"
    )
    environment = os.environ | {"PYTHONHASHSEED": "5", "RAYON_NUM_THREADS": "1"}
    command = [sys.executable, "-c", program, spec.model_dump_json(), str(tmp_path / "again")]
    subprocess.run(command, check=True, env=environment, cwd=Path(__file__).parents[2])
    names = sorted(path.relative_to(corpus.path) for path in corpus.path.rglob("*") if path.is_file())
    assert len(names) > 20
    for name in names:
        assert (corpus.path / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_another_seed_is_another_split(corpus: PreparedCorpus, make_spec: SpecFactory, tmp_path: Path) -> None:
    prepare(make_spec(kind="tsv", path=str(corpus.path.parent / "pairs.tsv"), split_seed=1), tmp_path / "other")
    other = PreparedCorpus.open(tmp_path / "other")
    assert pairs_of(other, "test") != pairs_of(corpus, "test")
    assert_no_leak(other)


def test_max_pairs_keeps_whole_components(corpus: PreparedCorpus, make_spec: SpecFactory, tmp_path: Path) -> None:
    path = str(corpus.path.parent / "pairs.tsv")
    card = prepare(make_spec(kind="tsv", path=path, max_pairs=200), tmp_path / "small")
    assert sum(split["pairs"] for split in card["splits"].values()) == 200
    assert card["counts"]["not_sampled"] == card["counts"]["kept"] - 200
    assert_no_leak(PreparedCorpus.open(tmp_path / "small"))


@pytest.mark.parametrize("fields", [{"max_pairs": 70}, {"test_sentences": 5000}, {"max_tokens": 2}])
def test_too_small_for_the_splits(
    fields: dict[str, Any], corpus: PreparedCorpus, make_spec: SpecFactory, tmp_path: Path
) -> None:
    spec = make_spec(kind="tsv", path=str(corpus.path.parent / "pairs.tsv"), **fields)
    with pytest.raises(StudyError, match=r"too few .*lower corpus\.valid_sentences and corpus\.test_sentences"):
        prepare(spec, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_over_long_pairs(pairs: list[Pair], write_pairs: WritePairs, make_spec: SpecFactory, tmp_path: Path) -> None:
    rows = [*pairs[:5], (" ".join(["long"] * 80), "court"), *pairs[5:]]
    path = str(write_pairs(tmp_path / "pairs.tsv", rows))
    card = prepare(make_spec(kind="tsv", path=path, max_tokens=50), tmp_path / "out")
    assert card["counts"]["over_long"] == 1
    for split in card["splits"].values():
        assert max(split["longest_source_tokens"], split["longest_target_tokens"]) <= 50
    with pytest.raises(StudyError, match=r"pairs\.tsv, line 6: \d+ tokens, more than corpus\.max_tokens 50"):
        prepare(make_spec(kind="tsv", path=path, max_tokens=50, on_too_long="error"), tmp_path / "out")


def test_half_over_long_still_fills_the_splits(
    pairs: list[Pair], write_pairs: WritePairs, make_spec: SpecFactory, tmp_path: Path
) -> None:
    rows = [(f"{source} {'again ' * 40 if i % 2 else ''}", target) for i, (source, target) in enumerate(pairs)]
    path = str(write_pairs(tmp_path / "pairs.tsv", rows))
    card = prepare(make_spec(kind="tsv", path=path, max_tokens=40), tmp_path / "out")
    assert card["counts"]["over_long"] > 200
    assert (card["splits"]["valid"]["entries"], card["splits"]["test"]["entries"]) == (30, 50)


@pytest.fixture
def given_files(pairs: list[Pair], write_pairs: WritePairs, tmp_path: Path) -> dict[str, str]:
    """Validation and test files of 20 pairs each, which share some sentences with training and with each other."""
    fields = {}
    fresh = [(f"Unseen number {i}.", f"Numéro {i} jamais vu.") for i in range(40)]
    rows = {
        "test": [*fresh[:15], pairs[0], (pairs[1][0], "Autre chose."), *fresh[12:15]],
        "valid": [*fresh[20:38], fresh[0], pairs[2]],
    }
    for name, chosen in rows.items():
        for side, index in (("source", 0), ("target", 1)):
            path = tmp_path / f"{name}.{side}"
            path.write_text("".join(f"{pair[index]}\n" for pair in chosen), encoding="utf-8")
            fields[f"{name}_{side}_path"] = str(path)
    write_pairs(tmp_path / "train.tsv", pairs)
    return fields | {"path": str(tmp_path / "train.tsv")}


def test_given_splits_stay_and_training_gives_way(
    given_files: dict[str, str], pairs: list[Pair], make_spec: SpecFactory, tmp_path: Path
) -> None:
    card = prepare(make_spec(kind="tsv", **given_files), tmp_path / "out")
    prepared = PreparedCorpus.open(tmp_path / "out")
    assert_no_leak(prepared)
    test_lines = Path(given_files["test_source_path"]).read_text().splitlines()
    assert prepared.split("test").source_lines() == list(dict.fromkeys(test_lines)), "in the user's order, whole"
    held = {0: set(), 1: set()}
    for name in ("test", "valid"):
        for side, key in enumerate(("source", "target")):
            held[side] |= set(Path(given_files[f"{name}_{key}_path"]).read_text().splitlines())
    clean = {pair for pair in pairs if pair[0] not in held[0] and pair[1] not in held[1]}
    assert pairs_of(prepared, "train") == clean
    assert card["counts"]["crossing_train"] == len(pairs) - len(clean) > 2
    assert card["counts"]["crossing_valid"] == 1
    assert card["given_splits"]["test"]["duplicate"] == 3
    assert "given as files" in (tmp_path / "out" / "README.md").read_text().lower()


def test_only_the_test_set_given(given_files: dict[str, str], make_spec: SpecFactory, tmp_path: Path) -> None:
    fields = {name: value for name, value in given_files.items() if not name.startswith("valid")}
    prepare(make_spec(kind="tsv", **fields), tmp_path / "out")
    prepared = PreparedCorpus.open(tmp_path / "out")
    assert_no_leak(prepared)
    assert (len(prepared.split("valid")), len(prepared.split("test"))) == (30, 17)


def test_long_test_sentences_stay(given_files: dict[str, str], make_spec: SpecFactory, tmp_path: Path) -> None:
    path = Path(given_files["test_source_path"])
    path.write_text(path.read_text().replace("Unseen number 3.", "Unseen " * 90), encoding="utf-8")
    card = prepare(make_spec(kind="tsv", **given_files), tmp_path / "out")
    assert card["splits"]["test"]["over_long_kept"] == 1
    assert card["splits"]["test"]["longest_source_tokens"] > 60


def test_crossing_can_be_an_error(given_files: dict[str, str], make_spec: SpecFactory, tmp_path: Path) -> None:
    fields = {name: value for name, value in given_files.items() if not name.startswith("valid")}
    with pytest.raises(StudyError, match=r"train\.tsv, line 1: shares a sentence with .*test\.source.*on_crossing"):
        prepare(make_spec(kind="tsv", on_crossing="error", **fields), tmp_path / "out")


def test_half_a_given_split(given_files: dict[str, str], make_spec: SpecFactory, tmp_path: Path) -> None:
    del given_files["test_target_path"]
    with pytest.raises(StudyError, match=r"corpus\.test_source_path and corpus\.test_target_path"):
        prepare(make_spec(kind="tsv", **given_files), tmp_path / "out")


def test_training_is_all_in_the_test_set(given_files: dict[str, str], make_spec: SpecFactory, tmp_path: Path) -> None:
    fields = {"source_path": given_files["test_source_path"], "target_path": given_files["test_target_path"]}
    held = {name: value for name, value in given_files.items() if name.startswith("test")}
    with pytest.raises(StudyError, match="no pair is left"):
        prepare(make_spec(kind="files", **fields, **held), tmp_path / "out")


def test_a_failure_leaves_the_old_corpus(corpus: PreparedCorpus, make_spec: SpecFactory, tmp_path: Path) -> None:
    path = str(corpus.path.parent / "pairs.tsv")
    prepare(make_spec(kind="tsv", path=path), tmp_path / "out")
    before = (tmp_path / "out" / "card.json").read_bytes()
    with pytest.raises(StudyError):
        prepare(make_spec(kind="tsv", path=path, vocab_size=60_000), tmp_path / "out")
    assert (tmp_path / "out" / "card.json").read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_card_and_readme(corpus: PreparedCorpus) -> None:
    card = json.loads((corpus.path / "card.json").read_text())
    assert (card["license"], card["credit"]) == ("CC0", "nobody")
    ((name, digest),) = card["origin"]["sha256_of_files"].items()
    assert name.endswith("pairs.tsv")
    assert len(digest) == 64
    text = (corpus.path / "README.md").read_text()
    for part in ("CC0", "nobody", "component", f"{card['splits']['train']['pairs']:,}"):
        assert part in text
