"""Where each size's parameters and FLOPs go, before anything is spent: parameters by group, FLOPs a target token by part."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.elementwise import elementwise_flops
from pipeline.flops import backward_flops_by_part, forward_flops_by_part, parameters_by_group
from pipeline.plan import typical_positions
from pipeline.study import Study


@dataclass(frozen=True, kw_only=True)
class Breakdown:
    """One size. FLOPs are a target token's share of a training step on a full batch of typical sentences, unpadded."""

    size: str
    parameters: dict[str, int]  # by group
    forward_flops: dict[str, float]  # matmuls, by part
    backward_flops: dict[str, float]
    elementwise_flops: dict[str, float]  # forward, backward, update; an estimate


def breakdown(study: Study) -> list[Breakdown]:
    """Return the breakdown of every size of a study, in its order."""
    vocabulary, typical = study.corpus.vocab_size, typical_positions(study)

    def per_token(flops: dict[str, int]) -> dict[str, float]:
        return {name: value / typical.target for name, value in flops.items()}

    return [
        Breakdown(
            size=size.key,
            parameters=parameters_by_group(size, vocab_size=vocabulary),
            forward_flops=per_token(forward_flops_by_part(size, typical, vocab_size=vocabulary)),
            backward_flops=per_token(backward_flops_by_part(size, typical, vocab_size=vocabulary)),
            elementwise_flops=per_token(
                elementwise_flops(
                    size,
                    typical,
                    vocab_size=vocabulary,
                    dropout=study.training.dropout if size.dropout is None else size.dropout,
                )
            ),
        )
        for size in study.sizes
    ]
