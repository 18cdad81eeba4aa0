"""One embedded Ray session for all tests that need no process of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipeline.orchestration.session import session
from tests.dvc_projects import SESSION_CPUS


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    pytest.importorskip("ray")
    with session(SESSION_CPUS, None):
        yield
