"""A Ray session: one of our own on this machine, or a cluster's."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from pipeline.errors import StudyError
from pipeline.orchestration.records import Resources

_OBJECT_STORE_BYTES = 100_000_000  # outcomes are small; stages hand files on through DVC
_ANSWER_SECONDS = 10
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray would set CUDA_VISIBLE_DEVICES to nothing for a stage that declares no GPU; under DVC it may use one that is there.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Ray starts workers at niceness 15, and stages would inherit it: slower than under DVC wherever anything else runs.
    "RAY_worker_niceness": "0",
    # Its children are guarded (guardian.py) and told to save first; Ray's way is SIGKILL.
    "RAY_kill_child_processes_on_worker_exit": "0",
    # A stage that does not fit in memory fails after these, not never.
    "RAY_task_oom_retries": "2",
}


@contextmanager
def session(jobs: int, address: str | None, runtime_env: dict[str, Any] | None = None) -> Iterator[None]:
    """Start Ray with `jobs` CPUs, or connect to `address`; one that this process has already is used and left alone.

    `runtime_env` is what workers of the cluster at `address` get.
    """
    if find_spec("ray") is None:
        raise StudyError("tlc reproduce needs Ray, which is not installed: pip install 'ray>=2.60,<3'")
    import ray

    if ray.is_initialized():
        yield
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
        ray.init(
            address="local",
            num_cpus=jobs,
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            **quiet,
        )
    else:
        _check_answers(address)
        try:
            ray.init(address=address, runtime_env=runtime_env, **quiet)
        except ray.exceptions.RuntimeEnvSetupError as error:
            raise StudyError(
                f"the project's files could not be sent to the cluster ({error}); have .rayignore name what no stage reads"
            ) from error
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise StudyError(f"--address {address}: no Ray cluster answers there ({error})") from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Raise StudyError when nothing listens at ``host:port`` or ``ray://host:port``; Ray would try for minutes."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not colon:
        return  # `auto`, which Ray answers at once
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_SECONDS).close()
    except (OSError, ValueError) as error:
        raise StudyError(f"--address {address}: no Ray cluster answers there ({error})") from error


def ray_options(stage: str, needs: Resources) -> dict[str, float]:
    """Return a stage's needs as Ray knows them, CPUs and memory never beyond the largest node's; StudyError without a GPU."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    fit = [node for node in nodes if node.get("GPU", 0) >= needs.gpus]
    if not fit:
        raise StudyError(f"{stage} needs {needs.gpus} GPUs on one node and none has them; see its `meta:` in dvc.yaml")
    cpus, memory = (max(node.get(kind, 0) for node in fit) for kind in ("CPU", "memory"))
    return {
        "num_cpus": cpus if needs.exclusive else min(needs.cpus, cpus),
        "num_gpus": needs.gpus,
        "memory": min(needs.memory_bytes, memory),
    }
