"""Shapes with pruned heads: built, saved, refused by plain loading, generated from with a cache, and reshaped into."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers.models.m2m_100 import M2M100Config, M2M100ForConditionalGeneration
from transformers.models.roberta_prelayernorm import RobertaPreLayerNormConfig

from pipeline.errors import StudyError
from pipeline.flops import parameters_total
from pipeline.models.building import build as build_any
from pipeline.models.checkpoint import load_dense
from pipeline.models.pruned import is_heads_pruned, model_of, reshaped, shape_of
from pipeline.models.seq2seq import build, config_of
from pipeline.size import SizeSpec

NARROW = SizeSpec(d_model=32, num_layers=2, num_heads=3, head_dim=8, ffn_dim=40)
STANDARD = SizeSpec(d_model=32, num_layers=2, num_heads=4, ffn_dim=40)
IDS = torch.tensor([[5, 9, 7, 2], [8, 4, 2, 1]])
MASK = (IDS != 1).long()


def _logits(model: M2M100ForConditionalGeneration, steps: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=IDS, attention_mask=MASK, decoder_input_ids=steps).logits
    return logits


def test_only_pruned_heads_are_in_the_configuration() -> None:
    assert not hasattr(config_of(STANDARD, vocab_size=40), "head_dim")
    config = config_of(NARROW, vocab_size=40)
    assert config.head_dim == 8
    assert is_heads_pruned(config)
    assert is_heads_pruned(config.to_dict())
    assert not is_heads_pruned(config_of(STANDARD, vocab_size=40).to_dict())


def test_the_saved_configuration_gives_the_same_shape(tmp_path: Path) -> None:
    model = build(NARROW, vocab_size=40, seed=0).eval()
    model.save_pretrained(tmp_path)
    config = M2M100Config.from_pretrained(tmp_path)
    assert (config.head_dim, config.encoder_attention_heads, config.d_model) == (8, 3, 32)
    again = model_of(config).eval()
    again.load_state_dict(model.state_dict())
    assert torch.equal(_logits(again, IDS), _logits(model, IDS))
    assert sum(parameter.numel() for parameter in again.parameters()) == parameters_total(NARROW, vocab_size=40)
    assert again.lm_head.weight is again.model.shared.weight


def test_a_standard_configuration_gives_transformers_own_model() -> None:
    config = config_of(STANDARD, vocab_size=40)
    torch.manual_seed(0)
    ours = model_of(config)
    torch.manual_seed(0)
    theirs = M2M100ForConditionalGeneration(config)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_the_callers_configuration_stays_as_it_was() -> None:
    config = config_of(NARROW, vocab_size=40)
    model = model_of(config)
    model.config.dropout = 0.5
    assert (config.encoder_attention_heads, config.dropout) == (3, 0.0)
    assert model.model.decoder.layers[0].self_attn.config is model.config


def test_attention_is_scaled_by_the_heads_own_width() -> None:
    """Three heads of eight columns are four of which the last one's output is thrown away."""
    model = build(NARROW, vocab_size=40, seed=0).eval()
    narrow = model.model.encoder.layers[0].self_attn
    whole = build(STANDARD, vocab_size=40, seed=1).eval().model.encoder.layers[0].self_attn
    with torch.no_grad():
        whole.out_proj.weight.zero_()
        whole.out_proj.weight[:, :24] = narrow.out_proj.weight
        whole.out_proj.bias.copy_(narrow.out_proj.bias)
        for part in "qkv":
            getattr(whole, f"{part}_proj").weight[:24] = getattr(narrow, f"{part}_proj").weight
            getattr(whole, f"{part}_proj").bias[:24] = getattr(narrow, f"{part}_proj").bias
    x = torch.randn(2, 5, 32)
    assert torch.allclose(narrow(x)[0], whole(x)[0], atol=1e-6)


def test_generation_with_a_cache_follows_the_logits() -> None:
    model = build(NARROW, vocab_size=40, seed=3).eval()
    arguments = {"attention_mask": MASK, "num_beams": 1, "do_sample": False, "min_new_tokens": 6, "max_new_tokens": 6}
    with torch.no_grad():
        output = model.generate(IDS, **arguments, use_cache=True, output_logits=True, return_dict_in_generate=True)
    expected = _logits(model, output.sequences[:, :-1])
    assert torch.allclose(torch.stack(output.logits, 1), expected, atol=1e-5)


ENCODER = STANDARD.changed(architecture="encoder", positions=12, num_labels=3)


def test_a_classifiers_heads_too(tmp_path: Path) -> None:
    """Three heads of eight columns are four of which the last one's output is thrown away."""
    size = ENCODER.changed(num_heads=3, head_dim=8)
    model = build_any(size, vocab_size=40, seed=0).eval()
    whole = build_any(ENCODER, vocab_size=40, seed=1).eval()
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in whole.named_parameters():
            part = tuple(slice(length) for length in parameters[name].shape)
            if "attention.output.dense.weight" in name:
                parameter.zero_()
            parameter[part] = parameters[name]
        answers = [one(input_ids=IDS, attention_mask=MASK).logits for one in (model, whole)]
    torch.testing.assert_close(*answers)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters_total(size, vocab_size=40)
    assert shape_of(model.config) == size

    model.save_pretrained(tmp_path)
    with pytest.raises(StudyError, match="heads were pruned"):
        load_dense(tmp_path)
    again = model_of(RobertaPreLayerNormConfig.from_pretrained(tmp_path)).eval()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(input_ids=IDS, attention_mask=MASK).logits, answers[0])


def test_a_classifier_reshaped_keeps_its_head_and_its_dropout() -> None:
    model = build_any(ENCODER, vocab_size=40, seed=0, dropout=0.2).train()
    same = reshaped(model, ENCODER, dict(model.named_parameters()))
    assert type(same) is type(model)
    assert same.training
    assert (same.config.num_labels, same.config.hidden_dropout_prob, same.classifier.dropout.p) == (3, 0.2, 0.2)
    answers = [one.eval()(input_ids=IDS, attention_mask=MASK).logits for one in (same, model)]
    assert torch.equal(*answers)
    with pytest.raises(StudyError, match=r"where size w32x2h3d8f40c3 wants"):
        reshaped(model, ENCODER.changed(num_heads=3, head_dim=8), dict(model.named_parameters()))


def test_plain_loading_refuses_pruned_heads_and_other_architectures(tmp_path: Path) -> None:
    build(NARROW, vocab_size=40, seed=0).save_pretrained(tmp_path)
    with pytest.raises(
        StudyError, match=r"heads were pruned.*loads through pipeline\.compression\.formats\.load_model"
    ):
        load_dense(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"model_type": "bart"}), encoding="utf-8")
    with pytest.raises(StudyError, match=r"config\.json: a checkpoint of another architecture, model type 'bart'"):
        load_dense(tmp_path)


def test_reshaping_checks_every_weight_and_disturbs_nobodys_random_numbers() -> None:
    model = build(STANDARD, vocab_size=40, seed=0, dropout=0.2).train()
    weights = dict(model.named_parameters())
    torch.manual_seed(5)
    same = reshaped(model, STANDARD, weights)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(3))
    assert same.training
    assert same.config.dropout == same.model.encoder.layers[0].dropout == 0.2
    assert same.generation_config.max_length == model.generation_config.max_length
    assert torch.equal(_logits(same.eval(), IDS), _logits(model.eval(), IDS))
    missing = {name: weight for name, weight in weights.items() if name != "model.encoder.layers.0.fc1.bias"}
    with pytest.raises(
        StudyError, match=r"encoder\.layers\.0\.fc1\.bias has shape None where size w32x2h4f40 wants \(40,\)"
    ):
        reshaped(model, STANDARD, missing)
    with pytest.raises(
        StudyError, match=r"has shape \(32, 32\) where size w32x2h3d8f40 wants \(24, 32\)|wants \(24,\)"
    ):
        reshaped(model, NARROW, weights)
