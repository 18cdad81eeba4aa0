"""What every method that removes whole parts is held to, and a model whose parts all differ."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
import transformers

from pipeline.budget import Ledger
from pipeline.compression.candidate import Candidate
from pipeline.compression.registry import METHODS
from pipeline.flops import parameters_total
from pipeline.models.architectures import is_encoder
from pipeline.models.building import build
from pipeline.models.checkpoint import AUTO_CLASSES
from pipeline.recipes import shape_after
from pipeline.size import SizeSpec
from tests.candidates import NO_BENCH

VOCABULARY = 40
SIZE = SizeSpec(d_model=32, num_layers=3, num_heads=4, ffn_dim=48)
CLASSIFIER = SIZE.changed(architecture="encoder", positions=16, num_labels=3)
SIZES = {"translation": SIZE, "classification": CLASSIFIER}
IDS = torch.tensor([[5, 9, 7, 30, 2], [8, 14, 2, 1, 1]])
MASK = (IDS != 1).long()
STEPS = torch.tensor([[0, 6, 21, 4], [0, 33, 10, 2]])


def some_model(size: SizeSpec = SIZE, *, seed: int = 0) -> Any:
    """Return a model without a parameter at its initial 0 or 1, which would hide a fault of indices."""
    model = build(size, vocab_size=VOCABULARY, seed=seed, dropout=0.1).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def logits(model: Any) -> torch.Tensor:
    """Return the logits of two sentences, one of them padded."""
    target = {} if is_encoder(model.config) else {"decoder_input_ids": STEPS}
    with torch.no_grad():
        result: torch.Tensor = model(input_ids=IDS, attention_mask=MASK, **target).logits
    return result


def attentions(model: Any) -> list[list[Any]]:
    """Return the query, key, value and output projections of every attention."""
    if is_encoder(model.config):
        parts = [layer.attention for layer in model.roberta_prelayernorm.encoder.layer]
        return [[part.self.query, part.self.key, part.self.value, part.output.dense] for part in parts]
    decoder = [part for layer in model.model.decoder.layers for part in (layer.self_attn, layer.encoder_attn)]
    parts = [layer.self_attn for layer in model.model.encoder.layers] + decoder
    return [[part.q_proj, part.k_proj, part.v_proj, part.out_proj] for part in parts]


def ffns(model: Any) -> list[list[Any]]:
    """Return both linear layers of every FFN."""
    if is_encoder(model.config):
        return [[layer.intermediate.dense, layer.output.dense] for layer in model.roberta_prelayernorm.encoder.layer]
    return [[layer.fc1, layer.fc2] for layer in [*model.model.encoder.layers, *model.model.decoder.layers]]


def candidate_of(model: Any, size: SizeSpec = SIZE) -> Candidate:
    """Return a model at the start of a recipe."""
    return Candidate(model=model, size=size, trained_size=size, ledger=Ledger(), run={})


def applied(step: Any, model: Any, size: SizeSpec = SIZE) -> Candidate:
    """Return what a step makes of a model, through the registry."""
    candidate = candidate_of(model, size)
    METHODS[step.method](candidate, step, NO_BENCH)
    return candidate


def check_removal(step: Callable[[float], Any], fraction: float, folder: Path, *, task: str) -> Candidate:
    """Assert what holds for every removal; return what it made of `some_model` of the task."""
    whole = SIZES[task]
    model = some_model(whole)
    before = copy.deepcopy(model.state_dict())
    candidate = applied(step(fraction), model, whole)
    made, size = candidate.model, candidate.size
    assert size == shape_after(whole, step(fraction)) != whole
    assert sum(parameter.numel() for parameter in made.parameters()) == parameters_total(size, vocab_size=VOCABULARY)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert candidate.ledger == Ledger()
    if task == "translation":
        assert made.lm_head.weight is made.model.shared.weight
        assert made.config.dropout == made.model.encoder.layers[0].dropout == 0.1
    else:
        dropouts = [made.classifier.dropout, made.roberta_prelayernorm.encoder.layer[0].output.dropout]
        assert {made.config.hidden_dropout_prob, *(dropout.p for dropout in dropouts)} == {0.1}
        assert made.config.num_labels == 3

    again = applied(step(fraction), some_model(whole), whole).model
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), again.parameters(), strict=True))

    if size.is_standard:
        made.save_pretrained(folder)
        kind = getattr(transformers, AUTO_CLASSES[task])
        loaded = kind.from_pretrained(folder, attn_implementation="eager").eval()
        assert torch.equal(logits(loaded), logits(made))
    if task == "translation":
        generated = made.generate(IDS, attention_mask=MASK, max_new_tokens=5, num_beams=2)
        assert generated.shape[0] == 2

    untouched = candidate_of(model, whole)
    METHODS[step(0).method](untouched, step(0), NO_BENCH)
    assert untouched.model is model
    assert {f.name: getattr(untouched, f.name) for f in fields(untouched) if f.name != "model"} == {
        f.name: getattr(candidate_of(model, whole), f.name) for f in fields(untouched) if f.name != "model"
    }
    return candidate
