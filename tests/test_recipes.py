"""Recipes: which steps may follow which, what they are called, what is trained, and the shape that is left."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from pipeline.errors import StudyError
from pipeline.recipes import (
    Family,
    Step,
    check_order,
    kind_of,
    kind_of_training,
    method_of,
    shape_after,
    shapes_along,
    stage_of,
    trains,
)
from pipeline.size import SizeSpec

STEPS: TypeAdapter[list[Any]] = TypeAdapter(list[Step])
SETTINGS: dict[str, dict[str, Any]] = {
    "uniform": {"bits": 4}, "gptq": {"bits": 4}, "quanto": {"bits": 4}, "qat": {"bits": 4}, "activations": {},
    "magnitude": {"sparsity": 0.5}, "wanda": {"sparsity": 0.5}, "finetune": {}, "distill": {},
    **{name: {"fraction": 0.5} for name in ("heads", "ffn", "layers", "width")},
}  # fmt: skip
SIZE = SizeSpec(d_model=64, num_layers=4)


def steps(*methods: str | dict[str, Any]) -> list[Any]:
    """Return steps of these methods with plain settings, or with those given."""
    made = [{"method": one} if isinstance(one, str) else one for one in methods]
    return STEPS.validate_python([SETTINGS[one["method"]] | one for one in made])


@pytest.mark.parametrize(
    ("methods", "why"),
    [
        (("activations", "uniform"), "activations are quantized last"),
        (("uniform", "activations", "activations"), "activations are quantized last"),
        (("quanto", "activations"), "without ranges of activations"),
        (("uniform", "gptq"), "quantized already"),
        (("qat", "uniform"), "quantized already"),
        (("uniform", "finetune"), "no longer be on the grid"),
        (("gptq", "magnitude"), "no longer be on the grid"),
        (("qat", "ffn"), "no longer be on the grid"),
        (("magnitude", "heads"), "remove whole parts first"),
        (("wanda", "finetune", "width"), "remove whole parts first"),
        (("magnitude", "quanto"), "hold no masks"),
        (("heads", "width"), "no longer fill the width"),
        (({"method": "magnitude", "sparsity": 0.7}, {"method": "wanda", "sparsity": 0.5}), "prune to at least 0.7"),
    ],
)
def test_impossible_orders_are_refused_with_both_steps(methods: tuple[Any, ...], why: str) -> None:
    made = steps(*methods)
    with pytest.raises(ValueError, match=why) as raised:
        check_order("mine", made)
    culprit = made[-2 if made[-2].method != "finetune" else -3].method
    assert f"recipe mine: step {len(made)} ({made[-1].method}) cannot follow {culprit}" in str(raised.value)


@pytest.mark.parametrize(
    "methods",
    [
        (),
        ("uniform", "activations"),
        ("width", "ffn", "distill", "magnitude", "finetune", "uniform", "activations"),
        ("magnitude", "qat", "activations"),
        ("ffn", "quanto"),
        (
            {"method": "magnitude", "sparsity": 0.5},
            "finetune",
            {"method": "wanda", "sparsity": 0.5},
            {"method": "magnitude", "sparsity": 0.7},
            "gptq",
        ),
    ],
)
def test_possible_orders_pass(methods: tuple[Any, ...]) -> None:
    check_order("mine", steps(*methods))


def test_shares_are_at_most_the_whole_recovery_budget_and_only_of_steps_that_train() -> None:
    check_order("mine", steps({"method": "finetune", "share": 0.4}, {"method": "qat", "share": 0.6}))
    check_order("mine", steps({"method": "finetune", "share": 1.0}, {"method": "magnitude", "share": 1.0}))
    with pytest.raises(ValueError, match=r"its steps share 1.1 of the recovery budget; 1 is all there is"):
        check_order("mine", steps({"method": "finetune", "share": 0.5}, {"method": "qat", "share": 0.6}))
    with pytest.raises(ValueError, match="share the whole recovery budget and leave qat none"):
        check_order("mine", steps({"method": "finetune", "share": 1.0}, "qat"))
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        steps({"method": "finetune", "share": 1.5})


@pytest.mark.parametrize(
    ("step", "says"),
    [
        ({"bits": 4}, "step 1 names no method; write for example"),
        ({"method": "unifrm", "bits": 4}, "no method 'unifrm'.*did you mean 'uniform'"),
        ({"method": "uniform", "bit": 4}, "uniform has no setting 'bit'.*did you mean 'bits'"),
    ],
)
def test_a_misspelt_step_is_named_with_what_was_meant(step: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Family.model_validate({"recipes": {"mine": [step]}})


def test_a_family_for_students_is_for_all_of_them() -> None:
    with pytest.raises(ValidationError, match="applies a family to every student"):
        Family.model_validate({"recipes": {"q4": [{"method": "uniform", "bits": 4}]}, "students": True, "seeds": 1})


@pytest.mark.parametrize(
    ("methods", "kind", "method", "stage"),
    [
        ((), "none", "none", "quantize"),
        (("uniform",), "uniform", "quantize", "quantize"),
        (("uniform", "activations"), "uniform+activations", "quantize", "quantize"),
        (("finetune",), "finetune", "finetune", "quantize"),
        (("magnitude",), "magnitude", "prune", "prune"),
        (({"method": "magnitude", "rounds": 3},), "magnitude+finetune", "prune", "prune"),
        (
            ({"method": "magnitude", "rounds": 3, "scope": "global", "recovery": "distill"}, "gptq"),
            "magnitude-global+distill+gptq",
            "prune+quantize",
            "prune",
        ),
        (("width", "ffn", "distill", "uniform"), "width+ffn+distill+uniform", "prune+quantize", "prune"),
    ],
)
def test_what_a_recipe_is_called(methods: tuple[Any, ...], kind: str, method: str, stage: str) -> None:
    made = steps(*methods)
    assert (kind_of(made), method_of(made), stage_of(made)) == (kind, method, stage)


@pytest.mark.parametrize(
    ("method", "masked", "kind"),
    [
        ("uniform", False, None),
        ("magnitude", True, None),
        ({"method": "magnitude", "rounds": 1}, True, "finetune"),
        ({"method": "wanda", "rounds": 1, "recovery": "distill"}, True, "word"),
        ("finetune", False, "train"),
        ("finetune", True, "finetune"),
        ("distill", False, "word"),
        ("qat", True, "qat"),
    ],
)
def test_what_trains_and_at_which_price(method: Any, masked: bool, kind: str | None) -> None:
    (step,) = steps(method)
    assert kind_of_training(step, masked=masked) == kind
    assert trains(step) == (kind is not None)


@pytest.mark.parametrize(
    ("method", "changed"),
    [
        ("heads", {"num_heads": 1}),
        ("ffn", {"ffn_dim": 128}),
        ("layers", {"num_layers": 2}),
        ("width", {"num_heads": 1, "d_model": 32}),
        ("magnitude", {}),
        ("uniform", {}),
        ({"method": "width", "fraction": 0.0}, {}),
    ],
)
def test_the_shape_that_a_step_leaves(method: Any, changed: dict[str, int]) -> None:
    (step,) = steps(method)
    left = shape_after(SIZE, step)
    assert left.model_dump() == SIZE.model_dump() | changed
    assert left.head_dim == 32


def test_shapes_follow_one_another_and_masks_stay() -> None:
    left = list(shapes_along(SIZE, steps("width", "ffn", "layers", "magnitude", "finetune")))
    assert [size.key for _, size, _ in left] == ["w32x4f256", "w32x4", "w32x2", "w32x2", "w32x2"]
    assert [masked for *_, masked in left] == [False, False, False, True, True]


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"method": "layers", "fraction": 0.3}, "has 4 layers, of which 2.8 would be left"),
        ({"method": "heads", "fraction": 0.9}, "has 2 heads, of which 0.2 would be left"),
        ({"method": "ffn", "fraction": 0.999}, "FFN columns"),
    ],
)
def test_parts_are_whole_and_some_are_left(step: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        shape_after(SIZE, steps(step)[0])


def test_a_family_starts_from_the_branch_that_left_a_budget_where_a_recipe_trains() -> None:
    family = Family.model_validate(
        {"recipes": {"q4": [{"method": "uniform", "bits": 4}], "qat4": [{"method": "qat", "bits": 4}]}}
    )
    assert [family.branch_of(name) for name in ("q4", "qat4")] == ["full", "early"]
    early = Family.model_validate({"recipes": {"early": []}, "branch": "early"})
    assert early.branch_of("early") == "early"
    assert early.stage == "quantize"


@pytest.mark.parametrize("method", ["uniform", "gptq", "qat", "activations"])
@pytest.mark.parametrize("bits", [1, 9, 16, -4])
def test_bits_are_from_two_to_eight_or_none(method: str, bits: int) -> None:
    with pytest.raises(ValidationError, match="a whole number from 2 to 8 is needed, or 32 for none"):
        steps({"method": method, "bits": bits})
    assert steps({"method": method, "bits": 32})[0].bits == 32


def test_quanto_has_three_widths() -> None:
    with pytest.raises(ValidationError, match="optimum-quanto has 8, 4 and 2"):
        steps({"method": "quanto", "bits": 3})
