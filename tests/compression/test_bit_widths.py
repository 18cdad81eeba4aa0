"""Which matrices are quantized, and to how many bits."""

from __future__ import annotations

import pytest

from pipeline.compression.bit_widths import EMBEDDING, bit_widths
from pipeline.errors import StudyError

NAMES = [EMBEDDING, "encoder.fc1.weight", "encoder.fc2.weight"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"bits": 4}, [4, 4, 4]),
        ({"bits": 4, "embedding_bits": 8}, [8, 4, 4]),
        ({"bits": 4, "embedding_bits": 32}, [None, 4, 4]),
        ({"bits": 32, "embedding_bits": 8}, [8, None, None]),
        ({"bits": 32}, [None, None, None]),
        ({"bits": 3, "keep": ["fc1"]}, [3, None, 3]),
        ({"bits": 3, "embedding_bits": 8, "keep": ["shared", "fc2"]}, [None, 3, None]),
    ],
)
def test_bits_of_every_matrix(settings: dict[str, object], expected: list[int | None]) -> None:
    widths = bit_widths(NAMES, **settings)
    assert [widths.get(name) for name in NAMES] == expected
    assert None not in widths.values()


def test_a_part_of_no_name_is_refused() -> None:
    with pytest.raises(StudyError, match="keep: 'fc3' is part of no matrix's name"):
        bit_widths(NAMES, bits=4, keep=["fc1", "fc3"])
