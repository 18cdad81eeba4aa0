"""Every kind of step can be measured on every kind of shape, and is what it is called."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.corpora.prepared import PreparedCorpus
from pipeline.evaluation import step_seconds as measured
from pipeline.size import SizeSpec
from pipeline.study import load_study
from pipeline.training.state import TrainState

SMALL = SizeSpec(d_model=16, num_layers=1)
CUT = SizeSpec(d_model=32, num_layers=1, num_heads=1, head_dim=16, ffn_dim=64)  # half its heads and FFN columns


@pytest.mark.parametrize("size", [SMALL, CUT], ids=lambda size: size.key)
@pytest.mark.parametrize("kind", ["train", "finetune", "qat", "word"])
def test_a_step_is_made_as_a_study_will_make_it(
    corpus: PreparedCorpus, monkeypatch: pytest.MonkeyPatch, kind: str, size: SizeSpec
) -> None:
    plain, states = measured.train, []

    def noted(state: TrainState, options: Any, **rest: Any) -> None:
        plain(state, options, **rest)
        states.append((state, options))

    monkeypatch.setattr(measured, "train", noted)
    teacher = SMALL if kind == "word" else None
    study = load_study("configs/smoke.yaml")
    assert 0 < measured.step_seconds(study, size, corpus.path, kind=kind, teacher=teacher, steps=2) < 5
    state, options = states[-1]
    assert state.step == 2 + 4
    rounded = state.forward.weights.latent is not state.forward.weights.master
    assert (bool(state.masks), rounded) == (kind == "finetune", kind == "qat")
    assert hasattr(options.objective, "teacher") == (kind == "word")
    if kind == "qat":
        matrix = state.model.get_parameter("model.encoder.layers.0.fc1.weight")
        assert all(len(row.unique()) <= 8 for row in matrix.detach())
