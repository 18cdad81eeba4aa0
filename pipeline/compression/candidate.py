"""A model on its way through a recipe, and what a step may use beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from pipeline.budget import Budget, Ledger
from pipeline.compression.quantization import QuantizedTensor
from pipeline.corpora.prepared import PreparedCorpus
from pipeline.size import SizeSpec

if TYPE_CHECKING:
    from pipeline.models.seq2seq import Model


@dataclass(frozen=True, kw_only=True)
class ActivationRange:
    """What the inputs of one linear layer are rounded to: `minimum` + code x `scale`, codes of `bits` bits."""

    bits: int
    minimum: float
    scale: float


@dataclass(kw_only=True)
class Candidate:
    """What a recipe has made of its parent so far.

    `model`'s weights are always what the file will hold: pruned ones are 0, quantized ones lie on their grid.
    """

    model: Model
    size: SizeSpec  # of `model` as it is now
    trained_size: SizeSpec  # of the parent
    ledger: Ledger  # the parent's, and what the steps have spent
    run: dict[str, Any]  # the parent's run.json
    masks: dict[str, Tensor] = field(default_factory=dict)  # by name of a matrix, True where kept; empty: not pruned
    quantized: dict[str, QuantizedTensor] = field(default_factory=dict)  # by name of a matrix
    activations: dict[str, ActivationRange] = field(default_factory=dict)  # by name of a linear layer
    weight_errors: dict[str, float] = field(default_factory=dict)  # ||W - Q(W)|| / ||W|| by name of a quantized matrix
    quanto_bits: int | None = None  # `model` consists of optimum-quanto's layers, quantized and frozen
    steps: int = 0  # of training after the parent's


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What a step may use beside the candidate; the same for all steps of a family."""

    entry: dict[str, Any]  # of params.yaml
    key: str
    match: str
    corpus: PreparedCorpus
    budget: Budget  # of the whole run, the parent's training in it
    recovery: Budget  # what the parent left of it when the recipe's first step began; 0 where it left nothing
    parent: Path  # its model directory: the teacher of a recovery by distillation
    validate: Callable[[Any], float]
    checkpoint: Path  # where a step that trains keeps what it resumes from
    share: float  # of `recovery` that the present step may spend

    @property
    def counts_seconds(self) -> bool:
        """Whether steps are calibrated; a model of no study was never timed, and its ledger has no seconds."""
        return bool(self.entry.get("counts_seconds", True))


class Method(Protocol):
    """A step's work. It changes the candidate in place, charges what it used, and is deterministic.

    At strength 0 (no fraction, no sparsity, 32 bits, no share of the budget) it changes nothing and charges nothing.
    """

    def __call__(self, candidate: Candidate, step: Any, bench: Bench) -> None:
        """Apply `step`, an instance of the method's settings in pipeline.recipes."""
        ...


@torch.no_grad()
def put_on_grid(candidate: Candidate, name: str, quantized: QuantizedTensor) -> None:
    """Make `quantized` a matrix's weights, and note the error that this makes."""
    from pipeline.compression.quantization import dequantize, relative_error

    parameter = candidate.model.get_parameter(name)
    before = parameter.detach().cpu().numpy()
    values = dequantize(quantized)
    candidate.weight_errors[name] = relative_error(before, values)
    candidate.quantized[name] = quantized
    parameter.copy_(torch.from_numpy(values))
