"""Preparing for encoders: no document and no sentence in two splits, every token accounted for, the same bytes again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from pipeline.corpora.encoder_preparation import fitted, prepare_encoder_corpus
from pipeline.corpora.encoder_splits import LabelledSplit, TextSplit
from pipeline.corpora.prepared import PreparedCorpus
from pipeline.corpora.streams import open_stream, ordered_batches
from pipeline.corpora.token_array import TokenArray
from pipeline.corpora.words import words_of
from pipeline.errors import StudyError
from tests.corpora.conftest import EncoderSpecFactory, Labelled, csv_bytes

NAMES = ("train", "valid", "test")
Files = dict[str, dict[str, Any]]


def text_of(path: Path, name: str) -> TextSplit:
    split = PreparedCorpus.open_task(path, "masked_lm").split(name)
    assert isinstance(split, TextSplit)
    return split


def sentences_of(path: Path, name: str) -> LabelledSplit:
    return PreparedCorpus.open_task(path, "classification").sentences(name)


def assert_no_leak(path: Path) -> None:
    for split_of in (text_of, sentences_of):
        found = [
            {words_of(side) for line in split_of(path, name).lines() for side in line.split("\t")} for name in NAMES
        ]
        assert not found[0] & (found[1] | found[2])
        assert not found[1] & found[2]


def test_documents_are_held_out_whole(encoder_corpus: Path, documents: list[str]) -> None:
    assert_no_leak(encoder_corpus)
    found = {name: text_of(encoder_corpus, name).lines() for name in NAMES}
    assert {name: len(lines) for name, lines in found.items()} == {"train": 93, "valid": 12, "test": 15}
    assert sorted(line for lines in found.values() for line in lines) == sorted(documents)


def test_blocks_hold_the_documents(encoder_corpus: Path) -> None:
    corpus = PreparedCorpus.open_task(encoder_corpus, "masked_lm")
    tokenizer = corpus.tokenizer()
    for name in NAMES:
        split = text_of(encoder_corpus, name)
        documents = tokenizer.decode(split.blocks.ids.tolist()).split("</s>")
        statistics = corpus.card["splits"][name]
        if name == "train":
            assert set(split.blocks.lengths.tolist()) == {30}
            begun_anew = documents.pop()
            assert split.lines()[0].startswith(begun_anew.strip())
        assert [" ".join(document.split()) for document in documents] == split.lines()
        assert statistics["entries"] == len(split)
        parts = [statistics[key] for key in ("tokens", "separators", "repeated_tokens")]
        assert sum(parts) == int(split.blocks.lengths.sum())


def test_components_are_documents(encoder_corpus: Path) -> None:
    corpus = PreparedCorpus.open_task(encoder_corpus, "masked_lm")
    for name in ("valid", "test"):
        split = text_of(encoder_corpus, name)
        components = split.components()
        assert len(components) == len(split)
        assert len(np.unique(components)) == corpus.card["splits"][name]["components"]
        # so many documents ended before the block, and one more where it begins with the end of one
        ended = np.cumsum([0, *((split.blocks[i] == 2).sum() for i in range(len(split) - 1))])
        begun = ended + np.array([split.blocks[i][0] == 2 for i in range(len(split))])
        pairs = {*zip(begun.tolist(), components.tolist(), strict=True)}
        assert len(pairs) == len(np.unique(components)) == len(np.unique(begun)) > 5
    with pytest.raises(StudyError, match="only valid and test have components"):
        text_of(encoder_corpus, "train").components()


def test_sentences_and_their_labels(encoder_corpus: Path, labelled: list[Labelled]) -> None:
    corpus = PreparedCorpus.open_task(encoder_corpus, "classification")
    tokenizer = corpus.tokenizer()
    known = dict(labelled)
    assert (corpus.kind, corpus.classes) == ("sentences", 2)
    for name, size in zip(NAMES, (300, 40, 60), strict=True):
        split = corpus.sentences(name)
        statistics = corpus.card["splits"][name]
        assert len(split) == len(split.lines()) == size == statistics["entries"] == sum(statistics["per_class"])
        assert split.labels.dtype == np.int64
        for index, (line, label) in enumerate(zip(split.lines(), split.labels.tolist(), strict=True)):
            assert known[line] == label
            assert line.startswith(tokenizer.decode(split.sentences[index].tolist()))
        assert int(split.padded_lengths.max()) <= 24
        cut = sum(len(tokenizer(line)["input_ids"]) > 24 for line in split.lines())
        assert statistics["truncated"] == cut > 0
    assert sum(len(corpus.sentences(name).components()) for name in ("valid", "test")) == 100


def test_the_tokenizer_is_learnt_from_training_documents_alone(
    encoder_files: Files, make_encoder_spec: EncoderSpecFactory, encoder_corpus: Path, tmp_path: Path
) -> None:
    for folder in ("text", "sentences"):
        tokenizer = PreparedCorpus.open(encoder_corpus / folder).tokenizer()
        assert (len(tokenizer), tokenizer.mask_token_id) == (320, 4)
    before = (encoder_corpus / "text" / "tokenizer" / "tokenizer.json").read_bytes()
    held_out = {line for name in ("valid", "test") for line in text_of(encoder_corpus, name).lines()}
    text = Path(encoder_files["text"]["paths"][0]).read_text().split("\n\n")
    # other words in every document that is held out: the tokenizer must not change
    other = [part.upper() if " ".join(part.split()) in held_out else part for part in text]
    (tmp_path / "other.txt").write_text("\n\n".join(other))
    spec = make_encoder_spec({"kind": "files", "paths": [str(tmp_path / "other.txt")]}, encoder_files["sentences"])
    prepare_encoder_corpus(spec, tmp_path / "out")
    assert text_of(tmp_path / "out", "valid").lines()[0].isupper()
    assert (tmp_path / "out" / "text" / "tokenizer" / "tokenizer.json").read_bytes() == before


def test_same_bytes_in_another_process(
    encoder_files: Files, make_encoder_spec: EncoderSpecFactory, encoder_corpus: Path, tmp_path: Path
) -> None:
    program = (
        "import sys; from pipeline.text_corpus import EncoderCorpusSpec; "
        "from pipeline.corpora.encoder_preparation import prepare_encoder_corpus as prepare; "
        "prepare(EncoderCorpusSpec.model_validate_json(sys.argv[1]), sys.argv[2])"
    )
    environment = os.environ | {"PYTHONHASHSEED": "5", "RAYON_NUM_THREADS": "1"}
    spec = make_encoder_spec(**encoder_files).model_dump_json()
    command = [sys.executable, "-c", program, spec, str(tmp_path / "again")]
    subprocess.run(command, check=True, env=environment, cwd=Path(__file__).parents[2])
    names = sorted(path.relative_to(encoder_corpus) for path in encoder_corpus.rglob("*") if path.is_file())
    assert len(names) > 30
    for name in names:
        assert (encoder_corpus / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_another_seed_is_another_split_and_other_masks(
    encoder_files: Files, make_encoder_spec: EncoderSpecFactory, encoder_corpus: Path, tmp_path: Path
) -> None:
    prepare_encoder_corpus(make_encoder_spec(**encoder_files, split_seed=1), tmp_path / "out")
    assert_no_leak(tmp_path / "out")
    for split_of in (text_of, sentences_of):
        assert split_of(tmp_path / "out", "test").lines() != split_of(encoder_corpus, "test").lines()
    assert text_of(tmp_path / "out", "valid").masking.seed == 1


def test_streams_over_the_prepared_corpus(encoder_corpus: Path) -> None:
    for task, columns in (("masked_lm", 32), ("classification", 1)):
        corpus = PreparedCorpus.open_task(encoder_corpus, task)
        batch = next(open_stream(corpus.split("train"), batch_tokens=200, seed=0))
        assert batch.labels.shape[1] == columns
        assert int(batch.source.max()) < corpus.vocab_size
        assert sum(map(len, ordered_batches(corpus.split("valid"), batch_tokens=200))) == len(corpus.split("valid"))


def with_sentences(
    encoder_files: Files, path: Path, rows: list[Any], names: tuple[str, ...] = ("text", "label")
) -> Files:
    path.write_bytes(csv_bytes(names, rows))
    return encoder_files | {"sentences": {"kind": "csv", "path": str(path)}}


def test_repeated_texts(
    encoder_files: Files,
    make_encoder_spec: EncoderSpecFactory,
    labelled: list[Labelled],
    documents: list[str],
    tmp_path: Path,
) -> None:
    shouted = [(text.upper().replace(" ,", ","), 1 - label) for text, label in labelled[:100]]
    files = with_sentences(encoder_files, tmp_path / "a.csv", [*labelled, *labelled[:30], *shouted, ("", 1), (" ", 0)])
    text = [*documents, *documents[:8], *(document.upper() for document in documents[:20])]
    (tmp_path / "a.txt").write_text("\n\n".join(text))
    files["text"] = {"kind": "files", "paths": [str(tmp_path / "a.txt")]}
    card = prepare_encoder_corpus(make_encoder_spec(**files), tmp_path / "out")
    assert_no_leak(tmp_path / "out")
    counts = card["counts"]["sentences"]
    assert (counts["raw"], counts["empty"], counts["duplicate"], counts["kept"]) == (532, 2, 30, 500)
    assert counts["components"] == 400
    assert card["counts"]["text"] | {"duplicate": 8, "kept": 140, "components": 120} == card["counts"]["text"]
    test = sentences_of(tmp_path / "out", "test")
    words = [words_of(line) for line in test.lines()]
    components = test.components()
    assert len(np.unique(components)) == len(set(words)) < 60
    assert all((words[i] == words[j]) == (components[i] == components[j]) for i, j in np.ndindex(60, 60))


def test_no_document_holds_a_held_out_sentence(
    encoder_files: Files,
    make_encoder_spec: EncoderSpecFactory,
    encoder_corpus: Path,
    documents: list[str],
    tmp_path: Path,
) -> None:
    held_out = sentences_of(encoder_corpus, "test").lines()[0]
    trained = sentences_of(encoder_corpus, "train").lines()[0]
    text = [f"{documents[0]} {held_out.upper()} So it is.", f"{documents[1]} {trained}", *documents[2:]]
    (tmp_path / "a.txt").write_text("\n\n".join(text))
    files = encoder_files | {"text": {"kind": "files", "paths": [str(tmp_path / "a.txt")]}}
    card = prepare_encoder_corpus(make_encoder_spec(**files), tmp_path / "out")
    assert card["counts"]["text"]["hold_held_out_sentences"] == 1
    lines = [line for name in NAMES for line in text_of(tmp_path / "out", name).lines()]
    assert len(lines) == 119
    assert not any(held_out.upper() in line for line in lines)
    assert any(trained in line for line in lines)


def test_max_documents_and_max_sentences(
    encoder_files: Files, make_encoder_spec: EncoderSpecFactory, tmp_path: Path
) -> None:
    files = {name: dict(fields) for name, fields in encoder_files.items()}
    files["text"]["max_documents"], files["sentences"]["max_sentences"] = 50, 150
    card = prepare_encoder_corpus(make_encoder_spec(**files), tmp_path / "out")
    assert sum(split["documents"] for split in card["splits"]["text"].values()) == 50
    assert sum(split["entries"] for split in card["splits"]["sentences"].values()) == 150
    assert [card["counts"][part]["not_sampled"] for part in ("text", "sentences")] == [70, 250]


def saved_pairs(path: Path) -> dict[str, Any]:
    """A data set of sentence pairs in three splits that share some, its test labels hidden as GLUE's are."""
    pairs = [(f"Room {i} has {i % 7} windows .", f"There are {i % 5} doors in room {i} .", i % 3) for i in range(120)]
    parts = {
        "train": pairs,
        "validation": [*pairs[:5], ("New premise .", pairs[6][0], 0), ("Quite new .", "And this .", 2)],
        "test": [("Unseen .", "Unknown .", -1)],
    }
    columns = {
        name: dict(zip(("first", "second", "label"), zip(*rows, strict=True), strict=True))
        for name, rows in parts.items()
    }
    data = datasets.DatasetDict(
        {name: datasets.Dataset.from_dict({k: list(v) for k, v in c.items()}) for name, c in columns.items()}
    )
    data.save_to_disk(path)
    fields = {"kind": "datasets", "path": str(path), "text_column": "first", "pair_column": "second", "classes": 3}
    return fields | {"valid_split": "validation"}


def test_pairs_of_sentences_with_a_given_split(
    encoder_files: Files, make_encoder_spec: EncoderSpecFactory, tmp_path: Path
) -> None:
    files = encoder_files | {"sentences": saved_pairs(tmp_path / "d") | {"test_sentences": 20}}
    card = prepare_encoder_corpus(make_encoder_spec(**files, max_tokens=64), tmp_path / "out")
    assert_no_leak(tmp_path / "out")
    found = {name: split["entries"] for name, split in card["splits"]["sentences"].items()}
    assert found == {"train": 94, "valid": 7, "test": 20}
    assert card["counts"]["sentences"]["crossing_train"] == 6
    corpus = PreparedCorpus.open_task(tmp_path / "out", "classification")
    split, tokenizer = corpus.sentences("valid"), corpus.tokenizer()
    first, second = split.lines()[0].split("\t")
    assert [0, *split.sentences[0].tolist(), 2] == tokenizer(first, second)["input_ids"]
    assert "Given: valid" in (tmp_path / "out" / "sentences" / "README.md").read_text()


def test_pairs_that_share_a_sentence_on_either_side(
    encoder_files: Files, make_encoder_spec: EncoderSpecFactory, tmp_path: Path
) -> None:
    chains = [(f"Is seat {i} free ?", f"Seat {i} , free ?", f"May I have seat {i} ?") for i in range(100)]
    rows = [(chain[k], chain[k + 1], k) for k in (0, 1) for chain in chains]
    files = with_sentences(encoder_files, tmp_path / "a.csv", rows, ("text", "other", "label"))
    files["sentences"]["pair_column"] = "other"
    card = prepare_encoder_corpus(make_encoder_spec(**files), tmp_path / "out")
    assert_no_leak(tmp_path / "out")
    assert card["counts"]["sentences"]["components"] == 100
    assert card["splits"]["sentences"]["test"]["components"] == 30


def test_names_of_special_tokens_are_text(
    encoder_files: Files, make_encoder_spec: EncoderSpecFactory, documents: list[str], tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("\n\n".join(f"<s> {text} </s> <mask>" for text in documents))
    files = encoder_files | {"text": {"kind": "files", "paths": [str(tmp_path / "a.txt")]}}
    prepare_encoder_corpus(make_encoder_spec(**files), tmp_path / "out")
    for name in NAMES:
        split = text_of(tmp_path / "out", name)
        assert set(split.blocks.ids[split.blocks.ids < 5].tolist()) == {2}
        assert (split.blocks.ids == 2).sum() == len(split.lines()) - (name != "train")


def test_hidden_labels(encoder_files: Files, make_encoder_spec: EncoderSpecFactory, tmp_path: Path) -> None:
    files = encoder_files | {"sentences": saved_pairs(tmp_path / "d") | {"test_split": "test"}}
    with pytest.raises(
        StudyError, match=r"split test, row 1: label -1 .*GLUE.*corpus\.sentences\.test_sentences"
    ) as caught:
        prepare_encoder_corpus(make_encoder_spec(**files), tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_given_test_file(
    encoder_files: Files, make_encoder_spec: EncoderSpecFactory, labelled: list[Labelled], tmp_path: Path
) -> None:
    (tmp_path / "test.csv").write_bytes(csv_bytes(("text", "label"), [*labelled[:30], ("Never seen .", 1)]))
    files = encoder_files | {"sentences": encoder_files["sentences"] | {"test_path": str(tmp_path / "test.csv")}}
    card = prepare_encoder_corpus(make_encoder_spec(**files), tmp_path / "out")
    assert_no_leak(tmp_path / "out")
    assert card["splits"]["sentences"]["test"]["entries"] == 31
    assert card["counts"]["sentences"]["crossing_train"] == 30
    assert sentences_of(tmp_path / "out", "test").lines()[-1] == "Never seen ."


def test_names_of_classes(
    encoder_files: Files, make_encoder_spec: EncoderSpecFactory, labelled: list[Labelled], tmp_path: Path
) -> None:
    rows = [(text, ("neg", "pos")[label]) for text, label in labelled]
    files = with_sentences(encoder_files, tmp_path / "a.csv", rows)
    prepare_encoder_corpus(make_encoder_spec(**files), tmp_path / "out")
    corpus = PreparedCorpus.open_task(tmp_path / "out", "classification")
    assert corpus.card["class_names"] == ["neg", "pos"]
    known = dict(labelled)
    split = corpus.sentences("test")
    assert [known[line] for line in split.lines()] == split.labels.tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": 2}, r"a\.csv, row 2: label '2', but 0 to 1 are right.*corpus\.sentences\.classes"),
        ({"label": ""}, r"a\.csv, row 2: no label"),
        ({"label": "-1"}, r"a\.csv, row 2: label -1 stands for a hidden label"),
        ({"classes": 3}, r"a\.csv: 2 classes \(0, 1\), but corpus\.sentences\.classes is 3"),
        ({"text_column": "txt"}, r"no column 'txt'; did you mean 'text'"),
        ({"test_sentences": 400}, "400 sentences are too few for 400 for test and 40 for valid"),
        ({"max_sentences": 90}, "90 sentences are too few for 60 for test and 40 for valid"),
    ],
)
def test_bad_sentences(
    change: dict[str, Any],
    message: str,
    encoder_files: Files,
    make_encoder_spec: EncoderSpecFactory,
    labelled: list[Labelled],
    tmp_path: Path,
) -> None:
    first = (labelled[0][0], change.pop("label", labelled[0][1]))
    files = with_sentences(encoder_files, tmp_path / "a.csv", [first, *labelled[1:]])
    files["sentences"] |= change
    with pytest.raises(StudyError, match=message) as caught:
        prepare_encoder_corpus(make_encoder_spec(**files), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "change", "message"),
    [
        (" \n\n \n", {}, r"a\.txt: no text in 0 documents"),
        ("One .\n\nTwo .\n", {}, "2 documents are too few for 15 for test and 12 for valid"),
        (None, {"max_documents": 20}, "20 documents are too few"),
    ],
)
def test_bad_text(
    text: str | None,
    change: dict[str, Any],
    message: str,
    encoder_files: Files,
    make_encoder_spec: EncoderSpecFactory,
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.txt"
    path.write_text(Path(encoder_files["text"]["paths"][0]).read_text() if text is None else text)
    files = encoder_files | {"text": {"kind": "files", "paths": [str(path)], **change}}
    with pytest.raises(StudyError, match=message):
        prepare_encoder_corpus(make_encoder_spec(**files), tmp_path / "out")


def test_a_failure_leaves_the_old_corpus(
    encoder_files: Files, make_encoder_spec: EncoderSpecFactory, encoder_corpus: Path, tmp_path: Path
) -> None:
    shutil.copytree(encoder_corpus, tmp_path / "out")
    with pytest.raises(StudyError, match=r"set corpus\.vocab_size"):
        prepare_encoder_corpus(make_encoder_spec(**encoder_files, vocab_size=60_000), tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "card.json").read_bytes() == (encoder_corpus / "card.json").read_bytes()


@pytest.mark.parametrize("max_tokens", [8, 9, 12, 30])
def test_pairs_are_cut_from_the_longer_side(max_tokens: int) -> None:
    lengths = [(3, 20), (20, 3), (20, 20), (1, 1), (0, 9)]
    sides = [
        TokenArray(np.full(sum(row), 9, dtype=np.uint16), np.cumsum([0, *row])) for row in zip(*lengths, strict=True)
    ]
    found, cut = fitted(sides[0], sides[1], max_tokens=max_tokens)
    room = max_tokens - 4
    for i, (left, right) in enumerate(lengths):
        ids = found[i].tolist()
        middle = ids.index(2)
        kept = (middle, len(ids) - middle - 2)
        assert sum(kept) == min(room, left + right)
        assert cut[i] == (left + right > room)
        assert kept[0] == left or kept[0] >= room // 2
        assert kept[1] == right or kept[1] >= room // 2
