"""What goes into the linear layers: every one of them, its real rows alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipeline.compression.calibration_set import calibration_batches
from pipeline.compression.candidate import Candidate
from pipeline.compression.layer_inputs import (
    input_hessians,
    input_norms,
    input_ranges,
    observe_inputs,
    weights_of_layers,
)
from pipeline.compression.pruning import compressible
from pipeline.corpora.batches import Batch
from pipeline.corpora.prepared import PreparedCorpus
from tests.benches import bench_of, candidate_of


@pytest.fixture
def candidate(each_corpus: PreparedCorpus) -> Candidate:
    return candidate_of(each_corpus)


@pytest.fixture
def batches(each_corpus: PreparedCorpus, tmp_path: Path) -> list[Batch]:
    return calibration_batches(bench_of(each_corpus, tmp_path), 30)


def _alone(candidate: Candidate, batches: list[Batch]) -> dict[str, Tensor]:
    """Return every linear layer's inputs (N, C) of sentences that are computed one at a time, so that nothing is padded."""
    seen: dict[str, list[Tensor]] = {}
    handles = []
    for name, module in candidate.model.named_modules():
        if isinstance(module, nn.Linear):

            def keep(module: nn.Module, inputs: tuple[Tensor], name: str = name) -> None:
                seen.setdefault(name, []).append(inputs[0].reshape(-1, inputs[0].shape[-1]))

            handles.append(module.register_forward_pre_hook(keep))
    with torch.no_grad():
        for batch in batches:
            for one in batch.split(len(batch)):
                target = {} if candidate.size.num_labels else {"decoder_input_ids": one.decoder_input}
                candidate.model(input_ids=one.source, attention_mask=one.source_mask, **target)
    for handle in handles:
        handle.remove()
    return {name: torch.cat(parts) for name, parts in seen.items()}


def test_sums_are_those_of_sentences_computed_without_padding(candidate: Candidate, batches: list[Batch]) -> None:
    translates = not candidate.size.num_labels
    assert any((batch.source_mask == 0).any() and (batch.labels < 0).any() == translates for batch in batches)
    model = candidate.model
    weights = weights_of_layers(model)
    alone = _alone(candidate, batches)
    assert alone.keys() == weights.keys()
    norms, hessians, ranges = input_norms(model, batches), input_hessians(model, batches), input_ranges(model, batches)
    assert norms.keys() == hessians.keys() == set(weights.values())
    tables = {name for name in compressible(model) if "embeddings" in name}
    assert norms.keys() == compressible(model).keys() - tables
    assert len(tables) == (0 if translates else 3)  # a translation model's is its output projection
    assert ranges.keys() == weights.keys()
    for layer, inputs in alone.items():
        exact = inputs.double()
        hessian = hessians[weights[layer]]
        assert hessian.dtype == norms[weights[layer]].dtype == torch.float64
        torch.testing.assert_close(hessian, exact.T @ exact, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(norms[weights[layer]], exact.norm(dim=0), rtol=1e-5, atol=1e-5)
        assert ranges[layer] == pytest.approx((float(inputs.min()), float(inputs.max())), rel=1e-4, abs=1e-5)


def test_the_output_projection_counts_for_the_embedding(corpus: PreparedCorpus) -> None:
    weights = weights_of_layers(candidate_of(corpus).model)
    assert weights["lm_head"] == "model.shared.weight"
    assert len(set(weights.values())) == len(weights)


def test_the_model_is_left_as_it_was(candidate: Candidate, batches: list[Batch]) -> None:
    candidate.model.train()
    rows: dict[str, int] = {}

    def observe(layer: str, inputs: Tensor) -> None:
        rows[layer] = rows.get(layer, 0) + len(inputs)
        assert not inputs.requires_grad

    translates = not candidate.size.num_labels
    within = ("model.decoder.layers.1.",) if translates else ("roberta_prelayernorm.encoder.layer.1.", "classifier.")
    for place in within:
        observe_inputs(candidate.model, batches, observe, within=place)
    assert candidate.model.training
    assert not any(module._forward_pre_hooks for module in candidate.model.modules())
    targets, sources = sum(batch.target_tokens for batch in batches), sum(batch.source_tokens for batch in batches)
    assert sources != targets
    assert translates or targets == sum(map(len, batches))
    read = ("encoder_attn.k_proj", "encoder_attn.v_proj") if translates else ("query", "key", "value", ".dense")
    assert rows == {
        name: sources if name.endswith(read) and not name.startswith("classifier") else targets
        for name in weights_of_layers(candidate.model)
        if name.startswith(within)
    }
