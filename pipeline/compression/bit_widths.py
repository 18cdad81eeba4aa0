"""Which matrix gets how many bits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pipeline.errors import StudyError
from pipeline.models.parameters import EMBEDDINGS
from pipeline.recipes import FP32_BITS

EMBEDDING = "model.shared.weight"
"""The study's embedding, whose matrix is also the output projection's."""


def bit_widths(
    names: Iterable[str], *, bits: int, embedding_bits: int | None = None, keep: Sequence[str] = ()
) -> dict[str, int]:
    """Return {matrix: bits a weight} of those among `names` that are to be quantized.

    `embedding_bits` is that of the embedding, or of all tables of the vocabulary (None: as the others); a
    matrix whose name contains a part in `keep` and one
    of 32 bits stay in fp32. StudyError when a part to keep is in no name.
    """
    names = list(names)
    for part in keep:
        if not any(part in name for name in names):
            raise StudyError(
                f"keep: {part!r} is part of no matrix's name; names are like {', '.join(names[:3])}; correct the recipe"
            )
    widths = {name: embedding_bits if name in EMBEDDINGS and embedding_bits else bits for name in names}
    return {
        name: width for name, width in widths.items() if width != FP32_BITS and not any(part in name for part in keep)
    }
