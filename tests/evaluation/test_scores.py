"""BLEU and chrF against sacreBLEU's published numbers and command line; vectorised BLEU against its corpus score."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU

from pipeline.errors import StudyError
from pipeline.evaluation.scores import bleu_from_statistics, corpus_scores, sentence_bleu_statistics

# the example of sacreBLEU's README, "Using SacreBLEU from Python", with the scores printed there
HYPOTHESES = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."]
REFERENCES = [
    ["The dog bit the man.", "The dog had bit the man."],
    ["It was not unexpected.", "No one was surprised."],
    ["The man bit him first.", "The man had bitten the dog."],
]
RAGGED = [REFERENCES[0][1:], *REFERENCES[1:]]
WORDS = ["a", "b", "c", "d", "e"]


def test_published_scores_with_two_references() -> None:
    scores = corpus_scores(HYPOTHESES, REFERENCES)
    assert scores["bleu"] == pytest.approx(48.53, abs=0.005)
    assert scores["chrf"] == pytest.approx(59.73, abs=0.005)
    assert scores["bleu_signature"].startswith("nrefs:2|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert scores["chrf_signature"].startswith("nrefs:2|case:mixed|eff:yes|nc:6|nw:0|space:no|version:")


def test_published_score_with_a_variable_number_of_references() -> None:
    scores = corpus_scores(HYPOTHESES, RAGGED)
    assert scores["bleu"] == pytest.approx(29.44, abs=0.005)
    assert scores["bleu_signature"].startswith("nrefs:var|")
    assert scores["chrf_signature"].startswith("nrefs:var|")


def test_the_command_line_agrees(tmp_path: Path) -> None:
    (tmp_path / "hypotheses").write_text("\n".join(HYPOTHESES) + "\n", encoding="utf-8")
    for i in range(2):
        (tmp_path / f"reference{i}").write_text("\n".join(lines[i] for lines in REFERENCES) + "\n", encoding="utf-8")
    files = [str(tmp_path / name) for name in ("reference0", "reference1", "hypotheses")]
    command = [sys.executable, "-m", "sacrebleu", *files[:2], "-i", files[2], "-m", "bleu", "chrf", "-w", "6"]
    printed = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    scores = corpus_scores(HYPOTHESES, REFERENCES)
    for record, name in zip(printed, ("bleu", "chrf"), strict=True):
        assert scores[name] == pytest.approx(record["score"], abs=1e-6)
        assert record["signature"] == scores[f"{name}_signature"]


def test_order_of_references_does_not_matter_and_an_empty_hypothesis_costs() -> None:
    flipped = [lines[::-1] for lines in REFERENCES]
    assert corpus_scores(HYPOTHESES, flipped)["bleu"] == pytest.approx(corpus_scores(HYPOTHESES, REFERENCES)["bleu"])
    assert corpus_scores(["", *HYPOTHESES[1:]], REFERENCES)["bleu"] < corpus_scores(HYPOTHESES, REFERENCES)["bleu"]


sentences = st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join)
cases = st.lists(st.tuples(sentences, st.lists(sentences, min_size=1, max_size=3)), min_size=1, max_size=6)


@settings(max_examples=200, deadline=None)
@given(cases)
def test_summed_statistics_give_the_corpus_score(case: list[tuple[str, list[str]]]) -> None:
    hypotheses, references = [pair[0] for pair in case], [pair[1] for pair in case]
    statistics = sentence_bleu_statistics(hypotheses, references)
    assert statistics.shape == (len(case), 10)
    assert float(bleu_from_statistics(statistics.sum(axis=0))) == pytest.approx(
        corpus_scores(hypotheses, references)["bleu"], abs=1e-9
    )


def test_vectorised_bleu_equals_sacrebleu_row_by_row() -> None:
    generator = np.random.default_rng(0)
    totals = -np.sort(-generator.integers(0, 12, size=(500, 4)), axis=1)
    # half the rows lose matches on some orders: smoothing once, twice, at the first order, everywhere
    matches = generator.integers(0, totals + 1) * (generator.random((500, 4)) < 0.6)
    lengths = np.stack([totals[:, 0], generator.integers(1, 15, size=500)], axis=1)
    rows = np.concatenate([matches, totals, lengths], axis=1)
    expected = [
        BLEU.compute_bleu(list(m), list(t), int(h), int(r), smooth_method="exp").score
        for m, t, (h, r) in zip(matches, totals, lengths, strict=True)
    ]
    assert (np.array(expected) == 0).any()
    assert ((np.array(expected) > 0) & (matches == 0).any(axis=1)).any()
    assert bleu_from_statistics(rows) == pytest.approx(np.array(expected), abs=1e-9)
    assert bleu_from_statistics(rows.reshape(5, 100, 10)).shape == (5, 100)


def test_an_empty_output_scores_nothing() -> None:
    assert float(bleu_from_statistics(np.zeros(10))) == 0.0


def test_bad_input_is_one_line() -> None:
    with pytest.raises(StudyError, match="3 hypotheses for 2 sentences"):
        corpus_scores(HYPOTHESES, REFERENCES[:2])
    with pytest.raises(StudyError, match="nothing to score"):
        corpus_scores([], [])
    with pytest.raises(StudyError, match="sentence 2 has no reference"):
        sentence_bleu_statistics(["a", "b"], [["a"], []])
