"""A student out of its teacher: the same parts as by the methods, and a clear line where it cannot be cut out."""

from __future__ import annotations

import pytest
import torch

from pipeline.compression.shrinking import shrink_to
from pipeline.errors import StudyError
from pipeline.models.seq2seq import build
from pipeline.recipes import Ffn, Layers, Width
from pipeline.size import SizeSpec
from tests.compression.methods.shrunk import SIZE, VOCABULARY, applied, logits, some_model


def test_it_is_layers_then_width_then_ffn() -> None:
    student = SizeSpec(d_model=16, num_layers=2, num_heads=2, ffn_dim=24)
    made = shrink_to(some_model(), SIZE, student)
    layers = applied(Layers(method="layers", fraction=1 / 3), some_model())
    width = applied(Width(method="width", fraction=0.5), layers.model, layers.size)
    ffn = applied(Ffn(method="ffn", fraction=0.5), width.model, width.size)
    assert ffn.size == student
    assert torch.equal(logits(made), logits(ffn.model))


def test_it_has_the_students_own_parameters_and_its_scale() -> None:
    student = SizeSpec(d_model=24, num_layers=3, num_heads=3, ffn_dim=48)
    made, fresh = shrink_to(some_model(), SIZE, student), build(student, vocab_size=VOCABULARY)
    assert [(n, p.shape) for n, p in made.named_parameters()] == [(n, p.shape) for n, p in fresh.named_parameters()]
    assert made.config.to_dict() | {"dropout": 0} == fresh.config.to_dict() | {"dropout": 0}


def test_the_teachers_own_size_is_the_teacher() -> None:
    model = some_model()
    assert shrink_to(model, SIZE, SIZE) is model


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_layers": 4}, "num_layers would grow from 3 .w32x3h4f48. to 4 .w32x4h4f48."),
        ({"ffn_dim": 49}, "ffn_dim would grow from 48"),
        ({"d_model": 40, "num_heads": 5, "head_dim": 0}, "d_model would grow from 32"),
        ({"num_heads": 2, "head_dim": 0}, "w32x3h4f48 has 8 columns a head and w32x3h2f48 has 16"),
        ({"num_heads": 2}, "w32x3h2d8f48 has heads that do not fill its width"),
    ],
)
def test_what_cannot_be_cut_out_is_one_line(change: dict[str, int], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        shrink_to(some_model(), SIZE, SizeSpec(**(SIZE.model_dump() | change)))
