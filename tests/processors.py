"""What this machine's processor can do, for tests of what only some can."""

from __future__ import annotations

import ctranslate2
import pytest

INT16 = "ctranslate2-int16"
computes_int16 = "int16" in ctranslate2.get_supported_compute_types("cpu")
needs_int16 = pytest.mark.skipif(not computes_int16, reason="CTranslate2 computes in int16 on Intel's processors alone")
