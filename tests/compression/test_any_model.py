"""Every method on every architecture that an import makes, and `tlc compress` on a directory of each."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.budget import Budget, Ledger
from pipeline.compression.any_model import entry_of, recipe_of
from pipeline.compression.candidate import Bench, Candidate
from pipeline.compression.formats import load_model, save_compressed
from pipeline.compression.registry import METHODS
from pipeline.corpora.prepared import PreparedCorpus
from pipeline.errors import StudyError
from pipeline.models.checkpoint import load_dense
from pipeline.models.parameters import learnt_parameters
from pipeline.models.pruned import shape_of
from pipeline.recipes import SETTINGS
from tests.architectures import ARCHITECTURES, tiny_model, write_as_import
from tests.benches import bench_of
from tests.classifiers import encoder, encoder_size

STRONG: dict[str, dict[str, Any]] = {
    "activations": {"bits": 4, "sentences": 20},
    "distill": {},
    "ffn": {"fraction": 0.5},
    "finetune": {},
    "gptq": {"bits": 3, "sentences": 20},
    "heads": {"fraction": 0.5},
    "layers": {"fraction": 0.5},
    "magnitude": {"sparsity": 0.5, "rounds": 2},
    "qat": {"bits": 3, "embedding_bits": 8},
    "quanto": {"bits": 4},
    "uniform": {"bits": 3},
    "wanda": {"sparsity": 0.5, "sentences": 20},
    "width": {"fraction": 0.5},
}
NONE = {"bits": 32, "fraction": 0.0, "sparsity": 0.0}
TRAINS = {"distill", "finetune", "magnitude", "qat"}


def bench(corpus: PreparedCorpus, folder: Path, parent: Path, *, share: float = 1.0) -> Bench:
    plain = bench_of(corpus, folder, seconds_per_step={}, counts_seconds=False)
    budget = Budget.parse("4 step")
    fields = vars(plain) | {"budget": budget, "recovery": budget, "parent": parent, "share": share}
    return Bench(**fields)


def candidate_of(model: Any) -> Candidate:
    size = shape_of(model.config)
    run: dict[str, Any] = {}
    return Candidate(model=copy.deepcopy(model), size=size, trained_size=size, ledger=Ledger(), run=run)


@torch.no_grad()
def logits(model: Any) -> Tensor:
    source = torch.tensor([[7, 9, 12, 2], [8, 5, 2, 1]])
    target = torch.tensor([[2, 6, 11], [2, 14, 4]])
    result: Tensor = model(input_ids=source, attention_mask=(source != 1).long(), decoder_input_ids=target).logits
    return result


def tied(model: nn.Module) -> list[set[str]]:
    names: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), set()).add(name)
    return [group for group in names.values() if len(group) > 1]


@pytest.fixture(params=ARCHITECTURES)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def parent(kind: str, corpus: PreparedCorpus, tmp_path: Path) -> Path:
    """A model directory as an import writes it."""
    return write_as_import(tiny_model(kind, vocab_size=corpus.vocab_size), tmp_path / "parent")


def test_a_saved_model_loads_with_its_ties_here_and_its_logits_everywhere(parent: Path, kind: str) -> None:
    from transformers import AutoModelForSeq2SeqLM

    model = tiny_model(kind, vocab_size=300)
    loaded = load_dense(parent)
    assert tied(loaded) == tied(model)
    assert torch.equal(logits(loaded), logits(model))
    anybodys, report = AutoModelForSeq2SeqLM.from_pretrained(
        parent, attn_implementation="eager", output_loading_info=True
    )
    assert not any(report.values())
    assert torch.equal(logits(anybodys.eval()), logits(model))


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_method_applies_and_its_file_holds_the_same_model(
    method: str, parent: Path, corpus: PreparedCorpus, tmp_path: Path
) -> None:
    model = load_dense(parent)
    candidate = candidate_of(model)
    step = SETTINGS[method](method=method, **STRONG[method])
    METHODS[method](candidate, step, bench(corpus, tmp_path, parent))
    found = logits(candidate.model)
    assert torch.isfinite(found).all()
    assert not torch.equal(found, logits(model))
    assert candidate.ledger.total.seconds == 0
    assert (candidate.ledger.of("finetune").steps == 4) == (method in TRAINS)
    save_compressed(candidate, tmp_path / "made")
    loaded = load_model(tmp_path / "made")
    assert tied(loaded) == tied(candidate.model)
    assert torch.equal(logits(loaded), found)
    positions = [name for name, _ in candidate.model.named_parameters() if "embed_positions" in name]
    assert not set(positions) & set(learnt_parameters(candidate.model))


@pytest.mark.parametrize("method", sorted(METHODS))
def test_no_strength_changes_nothing(method: str, parent: Path, corpus: PreparedCorpus, tmp_path: Path) -> None:
    model = load_dense(parent)
    candidate = candidate_of(model)
    settings = STRONG[method] | {name: value for name, value in NONE.items() if name in STRONG[method]}
    METHODS[method](candidate, SETTINGS[method](method=method, **settings), bench(corpus, tmp_path, parent, share=0.0))
    assert torch.equal(logits(candidate.model), logits(model))
    assert candidate.ledger == Ledger()


def test_masks_and_grids_reach_every_table_once(
    parent: Path, kind: str, corpus: PreparedCorpus, tmp_path: Path
) -> None:
    candidate = candidate_of(load_dense(parent))
    tables = {
        "tied": 1,
        "untied": 3,
        "decoder-tied": 2,
        "post-norm": 1,
        "post-norm-separate": 2,
        "post-norm-learned": 1,
    }[kind]
    METHODS["uniform"](
        candidate, SETTINGS["uniform"](method="uniform", bits=4, embedding_bits=8), bench(corpus, tmp_path, parent)
    )
    of_tables = {name: grid.bits for name, grid in candidate.quantized.items() if "layers" not in name}
    assert not any("embed_positions" in name for name in candidate.quantized)
    assert len(of_tables) == tables
    assert set(of_tables.values()) == {8}
    assert {grid.bits for name, grid in candidate.quantized.items() if "layers" in name} == {4}


def test_training_of_another_architecture_follows_the_gradient(kind: str, corpus: PreparedCorpus) -> None:
    """transformers' own modules train what the fused sublayers do not know: one step's gradient is autograd's own."""
    from pipeline.corpora.batches import BatchStream
    from pipeline.training.forward import FusedForward, forward_of
    from pipeline.training.objectives import CrossEntropy

    model = tiny_model(kind, vocab_size=corpus.vocab_size)
    twin = copy.deepcopy(model)
    batch = next(BatchStream(corpus.split("train"), batch_tokens=300, seed=0))
    forward = forward_of(model, precision="fp32")
    assert isinstance(forward, FusedForward) == (kind == "tied")
    CrossEntropy(label_smoothing=0.0)(forward, batch, step=0).backward()
    forward.weights.gather_gradient()
    found = forward.weights.by_name(forward.weights.gradient)
    scores = twin(
        input_ids=batch.source, attention_mask=batch.source_mask, decoder_input_ids=batch.decoder_input
    ).logits
    nn.functional.cross_entropy(scores.flatten(0, 1), batch.labels.flatten(), ignore_index=-100).backward()
    expected = learnt_parameters(twin)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        wanted = expected[name].grad
        assert wanted is not None, name
        np.testing.assert_allclose(gradient.numpy(), wanted.flatten().numpy(), atol=1e-5, err_msg=name)


@pytest.mark.parametrize("num_labels", [0, 3])
def test_an_encoder_is_refused_in_one_line(num_labels: int, tmp_path: Path) -> None:
    encoder(encoder_size(num_labels=num_labels)).save_pretrained(tmp_path)
    recipe = recipe_of([{"method": "uniform", "bits": 4}])
    with pytest.raises(StudyError, match="an encoder, which tlc compress does not take; compress it in its study"):
        entry_of(tmp_path, recipe, budget=None, settings={})


def test_uneven_sides_are_rounded_and_masked(corpus: PreparedCorpus, tmp_path: Path) -> None:
    model = tiny_model("untied", vocab_size=corpus.vocab_size, decoder_layers=1)
    candidate = candidate_of(load_dense(write_as_import(model, tmp_path / "parent")))
    for method, settings in (("magnitude", {"sparsity": 0.5}), ("uniform", {"bits": 4})):
        METHODS[method](candidate, SETTINGS[method](method=method, **settings), bench(corpus, tmp_path, tmp_path))
    save_compressed(candidate, tmp_path / "made")
    assert torch.equal(logits(load_model(tmp_path / "made")), logits(candidate.model))
    assert json.loads((tmp_path / "made" / "config.json").read_text())["decoder_layers"] == 1
