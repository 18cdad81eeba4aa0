"""Two engines, one meaning: on a model whose beams are undecided, and against the scores that torch computes."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from pipeline.compression.methods.heads import keep_heads
from pipeline.engines.ctranslate2_engine import CTranslate2Engine
from pipeline.errors import StudyError
from pipeline.evaluation.decoding import decode_targets, encode_sources, translate
from pipeline.size import SizeSpec


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


def _without_a_head(model):
    """Return the model with one of two heads left in every attention, of half the model's width."""
    return keep_heads(model, SizeSpec(d_model=64, num_layers=2, num_heads=1, head_dim=32))


def test_engines_agree_on_pruned_heads(trained) -> None:
    model = _without_a_head(trained.model)
    ours, theirs = (
        translate(model, trained.tokenizer, trained.lines[:100], max_length=20, engine=engine)
        for engine in ("ctranslate2-float32", "transformers")
    )
    assert identical(ours, theirs) >= 0.98
    assert len(set(ours)) > 50


@pytest.mark.parametrize("pruned", [False, True])
def test_ctranslate2_scores_are_the_model_s_log_probabilities(trained, pruned: bool) -> None:
    model = _without_a_head(trained.model) if pruned else trained.model
    translator = CTranslate2Engine(model, trained.tokenizer).translator
    tokenizer = trained.tokenizer
    sources = trained.lines[:60]
    targets = [" ".join(reversed(line.split())) for line in sources[1:]] + ["w1 w2"]  # of another line: improbable ones
    source_tokens = [tokenizer.convert_ids_to_tokens(tokenizer(line)["input_ids"]) for line in sources]
    found = translator.score_batch(source_tokens, [line.split() for line in targets])
    for source, target, result in zip(sources, targets, found, strict=True):
        ids = torch.tensor([tokenizer(target)["input_ids"]])
        shifted = torch.cat([torch.zeros(1, 1, dtype=torch.long), ids[:, :-1]], dim=1)
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([tokenizer(source)["input_ids"]]), decoder_input_ids=shifted).logits
        expected = logits.log_softmax(-1).gather(2, ids.unsqueeze(2)).squeeze()
        assert np.allclose(result.log_probs, expected.numpy(), atol=1e-4)


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
