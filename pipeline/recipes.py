"""Recipes: the steps that compress a model, their settings, which may follow which, and the shape that they leave.

A recipe is a sequence of steps in a study's YAML; what a method does stands in its card, the first lines of its file in
pipeline/compression/methods/. Recipes come in families: all of a family's recipes for one run are one cached stage.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from pipeline.errors import StudyError, nearest
from pipeline.section import Section
from pipeline.size import SizeSpec

FP32_BITS = 32
"""As a step's `bits`: nothing is quantized, and the step does nothing."""

Recovery = Literal["finetune", "distill"]


def _check_bits(bits: int | None) -> int | None:
    if bits is not None and bits != FP32_BITS and not 2 <= bits <= 8:
        raise ValueError(f"{bits} bits: a whole number from 2 to 8 is needed, or {FP32_BITS} for none")
    return bits


class _Training(Section):
    """What every step that trains can set."""

    share: float | None = Field(default=None, ge=0, le=1)  # of the recovery budget; None: an equal part of what is left
    learning_rate_fraction: float = Field(default=0.5, gt=0)  # of the size's peak rate, decayed to 0


class _Quantizing(Section):
    """What every step that rounds weights can set."""

    bits: int  # a weight of a matrix
    embedding_bits: int | None = None  # of the embedding, which is also the output projection; None: as the others
    keep: list[str] = Field(default_factory=list)  # parameters left in fp32, by a part of their name

    @field_validator("bits", "embedding_bits")
    @classmethod
    def _range(cls, value: int | None) -> int | None:
        return _check_bits(value)


class Uniform(_Quantizing):
    """Round to nearest on a min-max grid."""

    method: Literal["uniform"]
    granularity: Literal["tensor", "row", "group"] = "row"  # what shares one minimum and one step
    group_size: int = Field(default=64, gt=0)  # columns, of granularity group


class Gptq(_Quantizing):
    """Rounding column by column, each error compensated in the columns to come; rows share a min-max grid."""

    method: Literal["gptq"]
    sentences: int = Field(default=256, gt=0)  # of the training split, whose activations weigh the errors
    damping: float = Field(default=0.01, gt=0)  # added to the Hessian's diagonal, as a share of its mean


class Quanto(Section):
    """optimum-quanto's weights: the cross-check of `uniform`."""

    method: Literal["quanto"]
    bits: int

    @field_validator("bits")
    @classmethod
    def _known(cls, value: int) -> int:
        if value not in (2, 4, 8, FP32_BITS):
            raise ValueError(f"{value} bits: optimum-quanto has 8, 4 and 2")
        return value


class Activations(Section):
    """Inputs of the linear layers in k bits, on ranges from a calibration set."""

    method: Literal["activations"]
    bits: int = 8
    sentences: int = Field(default=256, gt=0)

    @field_validator("bits")
    @classmethod
    def _range(cls, value: int) -> int:
        _check_bits(value)
        return value


class Qat(_Quantizing, _Training):
    """Finetuning with weights rounded on the way forward."""

    method: Literal["qat"]


class _Masking(_Training):
    """What every unstructured pruning can set."""

    sparsity: float = Field(ge=0, lt=1)  # share of the matrices' weights that is gone in the end
    rounds: int = Field(default=0, ge=0)  # with recovery after each; 0: one shot, and nothing is trained
    recovery: Recovery = "finetune"


class Magnitude(_Masking):
    """The smallest weights go."""

    method: Literal["magnitude"]
    scope: Literal["matrix", "global"] = "matrix"  # smallest in each matrix, or in all together


class Wanda(_Masking):
    """The weights go whose magnitude times their input's norm is smallest in each row."""

    method: Literal["wanda"]
    sentences: int = Field(default=256, gt=0)


class _Removing(Section):
    fraction: float = Field(ge=0, lt=1)  # of what the step removes


class Heads(_Removing):
    """Whole attention heads go."""

    method: Literal["heads"]


class Ffn(_Removing):
    """Hidden columns of the feed-forward sublayers go."""

    method: Literal["ffn"]


class Layers(_Removing):
    """Whole layers of encoder and decoder go."""

    method: Literal["layers"]


class Width(_Removing):
    """Columns of the residual stream go, and with them heads, so that the shape stays a standard one."""

    method: Literal["width"]


class Finetune(_Training):
    """Training on the corpus, what is pruned held at 0."""

    method: Literal["finetune"]


class Distill(_Training):
    """Training on the corpus and on the word distributions of the uncompressed parent, what is pruned held at 0."""

    method: Literal["distill"]
    alpha: float = Field(default=0.5, ge=0, le=1)  # weight of the parent's distribution
    temperature: float = Field(default=1.0, gt=0)


Step = Annotated[
    Uniform | Gptq | Quanto | Activations | Qat | Magnitude | Wanda | Heads | Ffn | Layers | Width | Finetune | Distill,
    Field(discriminator="method"),
]

SETTINGS: dict[str, type[Section]] = {
    get_args(settings.model_fields["method"].annotation)[0]: settings for settings in get_args(get_args(Step)[0])
}
"""What each method takes, by its name."""

_REMOVING = (Heads, Ffn, Layers, Width)
_MASKING = (Magnitude, Wanda)
_ROUNDING = (Uniform, Gptq, Quanto, Qat)


def trains(step: Section) -> bool:
    """Tell whether a step trains, and so spends the budget that is kept for recovery."""
    if isinstance(step, _MASKING):
        return step.rounds > 0
    return isinstance(step, Finetune | Distill | Qat)


def kind_of_training(step: Section, *, masked: bool) -> Literal["train", "finetune", "qat", "word"] | None:
    """Return which kind of calibrated step a step's training takes: train, finetune (masked), qat, word; None: it does not train."""
    if not trains(step):
        return None
    if isinstance(step, Qat):
        return "qat"
    if isinstance(step, Distill) or (isinstance(step, _MASKING) and step.recovery == "distill"):
        return "word"
    return "finetune" if masked or isinstance(step, _MASKING) else "train"


def _fault(step: Section, before: Sequence[Section]) -> tuple[Section, str] | None:
    """Return which earlier step another cannot come after, and why; None when it can."""

    def last(*kinds: type[Section]) -> Any:
        return next((earlier for earlier in reversed(before) if isinstance(earlier, kinds)), None)

    if activations := last(Activations):
        return activations, "activations are quantized last"
    if isinstance(step, Activations):
        quanto = last(Quanto)
        return quanto and (quanto, "optimum-quanto keeps files of its own, without ranges of activations")
    if rounding := last(*_ROUNDING):
        if isinstance(step, _ROUNDING):
            return rounding, "the weights are quantized already"
        return rounding, (
            "what it changes would no longer be on the grid of the quantized weights; quantize last, or train with qat"
        )
    if isinstance(step, Width) and (heads := last(Heads)):
        return heads, "the heads no longer fill the width; prune the width alone, which takes heads with it"
    if masking := last(*_MASKING):
        if isinstance(step, _REMOVING):
            return masking, "masks have the shape before it; remove whole parts first"
        if isinstance(step, Quanto):
            return masking, "optimum-quanto's files hold no masks; use uniform"
        if isinstance(step, _MASKING) and step.sparsity < masking.sparsity:
            return masking, f"it would bring back pruned weights; prune to at least {masking.sparsity}"
    return None


def check_order(name: str, steps: Sequence[Section]) -> None:
    """Raise ValueError, with the recipe's name and the two steps, when a sequence is impossible."""
    for number, step in enumerate(steps):
        fault = _fault(step, steps[:number])
        if fault:
            raise ValueError(
                f"recipe {name}: step {number + 1} ({_method(step)}) cannot follow {_method(fault[0])}: {fault[1]}"
            )
    training = [step for step in steps if trains(step)]
    shares = sum(getattr(step, "share", None) or 0.0 for step in training)
    if shares > 1 + 1e-9:
        raise ValueError(f"recipe {name}: its steps share {shares:g} of the recovery budget; 1 is all there is")
    for step in training:
        if getattr(step, "share", None) is None and shares > 1 - 1e-9:
            raise ValueError(
                f"recipe {name}: the other steps share the whole recovery budget and leave {_method(step)} none; "
                "give every step that trains its share"
            )


def _method(step: Section) -> str:
    return str(getattr(step, "method", "nothing"))


def method_of(steps: Sequence[Section]) -> str:
    """Return the row's `method`: prune, quantize, prune+quantize, finetune, or none."""
    parts = []
    if any(isinstance(step, (*_REMOVING, *_MASKING)) for step in steps):
        parts.append("prune")
    if any(isinstance(step, (*_ROUNDING, Activations)) for step in steps):
        parts.append("quantize")
    return "+".join(parts) or ("finetune" if steps else "none")


def kind_of(steps: Sequence[Section]) -> str:
    """Return what a recipe consists of, whatever it is named: its methods in their order, joined by ``+``; ``none`` without.

    Masking in rounds names the recovery too, and masking at once that training follows is ``-once``; pruning over all matrices
    together is ``magnitude-global``: ``uniform``, ``magnitude-global+finetune+uniform``, ``magnitude-once+finetune``,
    ``ffn+distill``. Strengths are no part of it.
    """
    parts = []
    for step, following in zip_longest(steps, steps[1:]):
        name = _method(step)
        if isinstance(step, Magnitude) and step.scope == "global":
            name += "-global"
        elif isinstance(step, _MASKING) and not trains(step) and following is not None and trains(following):
            name += "-once"
        parts.append(name)
        if isinstance(step, _MASKING) and trains(step):
            parts.append(step.recovery)
    return "+".join(parts) or "none"


def stage_of(steps: Sequence[Section]) -> Literal["quantize", "prune"]:
    """Return the stage whose work a recipe is."""
    return "prune" if "prune" in method_of(steps) else "quantize"


def shape_after(size: SizeSpec, step: Section) -> SizeSpec:
    """Return the shape that a step leaves; StudyError when it would leave nothing, or no whole parts."""
    if not isinstance(step, _REMOVING) or step.fraction == 0:
        return size
    what, whole = {
        Heads: ("heads", size.num_heads),
        Width: ("heads", size.num_heads),
        Ffn: ("FFN columns", size.ffn_dim),
        Layers: ("layers", size.num_layers),
    }[type(step)]
    left = whole * (1 - step.fraction)
    if round(left) < 1 or abs(left - round(left)) > 1e-6:
        raise StudyError(
            f"{step.method} {step.fraction:g}: size {size.key} has {whole} {what}, of which {left:g} would be left; choose "
            "another fraction, or give the family only the `sizes` that it fits"
        )
    left = round(left)
    changed: dict[str, Any] = {
        Heads: {"num_heads": left},
        Width: {"num_heads": left, "d_model": left * size.head_dim},
        Ffn: {"ffn_dim": left},
        Layers: {"num_layers": left},
    }[type(step)]
    return size.changed(**changed)


def shapes_along(size: SizeSpec, steps: Sequence[Section]) -> Iterator[tuple[Any, SizeSpec, bool]]:
    """Yield every step with the shape that it leaves and whether weights are masked then."""
    masked = False
    for step in steps:
        size = shape_after(size, step)
        masked = masked or (isinstance(step, _MASKING) and step.sparsity > 0)
        yield step, size, masked


class Family(Section):
    """Recipes that are made together, one cached stage a run, and where they apply."""

    recipes: dict[str, list[Step]] = Field(min_length=1)
    sizes: list[str] | None = None  # size keys; None: all
    matches: list[Literal["seconds", "flops"]] | None = None  # None: all of the study
    seeds: int | None = Field(default=None, gt=0)  # so many of each size's; None: all
    branch: Literal["full", "early"] | None = None  # of the parent; None: early when a recipe trains, else full
    curve: bool = False  # the first seed's models are translated whether chosen or not
    students: bool = False  # applied to distilled students too

    @field_validator("recipes", mode="before")
    @classmethod
    def _spelt_right(cls, value: Any) -> Any:
        for name, steps in value.items() if isinstance(value, dict) else ():
            for number, step in enumerate(steps if isinstance(steps, list) else (), start=1):
                place = f"recipe {name}: step {number}"
                if not isinstance(step, dict) or "method" not in step:
                    raise ValueError(f"{place} names no method; write for example {{method: uniform, bits: 4}}")
                settings = SETTINGS.get(step["method"])
                if settings is None:
                    raise ValueError(f"{place}: no method {step['method']!r}{nearest(str(step['method']), SETTINGS)}")
                for key in step:
                    if key not in settings.model_fields:
                        raise ValueError(
                            f"{place}: {step['method']} has no setting {key!r}{nearest(str(key), settings.model_fields)}"
                        )
        return value

    @model_validator(mode="after")
    def _possible(self) -> Family:
        if self.students and not self.sizes is self.matches is self.seeds is None:
            raise ValueError("students: true applies a family to every student; take sizes, matches and seeds out")
        for name, steps in self.recipes.items():
            if not (name.isalnum() and name.isascii() and name == name.lower() and name[0].isalpha()) or name == "fp32":
                raise ValueError(f"recipe {name!r}: names are small letters and digits, and fp32 is taken")
            check_order(name, steps)
            trained = any(map(trains, steps))
            if trained and self.branch == "full":
                raise ValueError(
                    f"recipe {name}: it trains, and the full branch has left nothing of the budget; use early"
                )
            if trained and self.students:
                raise ValueError(
                    f"recipe {name}: it trains, and a student has spent its whole budget; take students out"
                )
        if len({stage_of(steps) for steps in self.recipes.values()}) > 1:
            raise ValueError("some of its recipes prune and others only quantize; make two families of them")
        return self

    @property
    def stage(self) -> Literal["quantize", "prune"]:
        """The stage that makes it."""
        return stage_of(next(iter(self.recipes.values())))

    def branch_of(self, recipe: str) -> Literal["full", "early"]:
        """Return which branch of the parent a recipe starts from."""
        return self.branch or ("early" if any(map(trains, self.recipes[recipe])) else "full")
