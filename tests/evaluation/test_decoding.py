"""Two engines, one meaning: on a model whose beams are undecided, and against the scores that torch computes."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from pipeline.errors import StudyError
from pipeline.evaluation.decoding import decode_targets, encode_sources, translate


def identical(first: list[str], second: list[str]) -> float:
    return float(np.mean([a == b for a, b in zip(first, second, strict=True)]))


@pytest.mark.parametrize(
    ("beam", "length_penalty", "max_length"),
    [(4, 1.0, 40), (4, 0.0, 40), (4, 0.6, 40), (3, 2.0, 40), (4, 1.0, 5), (1, 1.0, 40)],
)
def test_engines_agree(trained, beam: int, length_penalty: float, max_length: int) -> None:
    options = {"beam": beam, "length_penalty": length_penalty, "max_length": max_length}
    ours = translate(trained.model, trained.tokenizer, trained.lines, engine="ctranslate2-float32", **options)
    theirs = translate(trained.model, trained.tokenizer, trained.lines, engine="transformers", **options)
    assert identical(ours, theirs) >= 0.99


def test_the_task_is_hard_enough_to_tell_searches_apart(trained) -> None:
    by_options = {
        options: translate(trained.model, trained.tokenizer, trained.lines, beam=options[0], length_penalty=options[1])
        for options in ((1, 1.0), (4, 1.0), (4, 0.0), (4, 2.0))
    }
    assert identical(by_options[1, 1.0], by_options[4, 1.0]) < 0.95
    assert identical(by_options[4, 0.0], by_options[4, 2.0]) < 0.95
    words = {options: sum(len(line.split()) for line in lines) for options, lines in by_options.items()}
    assert words[4, 0.0] < words[4, 1.0] < words[4, 2.0]


def test_lines_stay_aligned_whatever_the_batches(trained) -> None:
    lines = ["", *trained.lines[:40], "   ", *trained.lines[40:50], ""]
    one = translate(trained.model, trained.tokenizer, lines, batch_tokens=1)
    many = translate(trained.model, trained.tokenizer, lines, batch_tokens=200, threads=2)
    assert len(many) == len(lines)
    assert many[0] == many[41] == many[-1] == ""
    assert all(many[1:41])
    assert many[1:41] == translate(trained.model, trained.tokenizer, trained.lines[:40])
    assert identical(one, many) >= 0.98
    assert translate(trained.model, trained.tokenizer, []) == []
    assert translate(trained.model, trained.tokenizer, ["", " "]) == ["", ""]


@pytest.mark.parametrize("engine", ["ctranslate2-float32", "transformers"])
def test_an_over_long_line_is_cut_not_fatal(trained, engine) -> None:
    long = " ".join(["w1"] * 400)
    assert len(translate(trained.model, trained.tokenizer, [long, "w2"], engine=engine)) == 2
    ids = encode_sources(trained.tokenizer, [long], max_tokens=256)[0]
    assert len(ids) == 256
    assert ids[-1] == trained.tokenizer.eos_token_id


def test_hypotheses_are_single_lines(trained) -> None:
    assert decode_targets(trained.tokenizer, [[0, 4, 5, 2, 1]]) == ["w0 w1"]


def test_decoding_leaves_the_model_as_it_was(trained) -> None:
    before = {name: tensor.clone() for name, tensor in trained.model.state_dict().items()}
    config = copy.deepcopy(trained.model.config.to_dict())
    trained.model.train()
    for engine in ("ctranslate2-float32", "transformers"):
        translate(trained.model, trained.tokenizer, trained.lines[:5], engine=engine)
        assert trained.model.training
    trained.model.eval()
    assert trained.model.config.to_dict() == config
    assert all(torch.equal(before[name], tensor) for name, tensor in trained.model.state_dict().items())


def test_bad_input_is_one_line(trained) -> None:
    model, tokenizer = trained.model, trained.tokenizer
    with pytest.raises(StudyError, match="no engine 'ctranslate'"):
        translate(model, tokenizer, ["w1"], engine="ctranslate")
    with pytest.raises(StudyError, match="beam is 0"):
        translate(model, tokenizer, ["w1"], beam=0)
    with pytest.raises(StudyError, match="max_length is 300; the model has positions for 1 to 256"):
        translate(model, tokenizer, ["w1"], max_length=300)
    with pytest.raises(StudyError, match="batch_tokens 0"):
        translate(model, tokenizer, ["w1"], batch_tokens=0)
