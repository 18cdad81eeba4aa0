"""All sides at one width: fresh processes, the same batches, in turns."""

from __future__ import annotations

from pathlib import Path

from throughput.comparison import Comparison
from throughput.fairseq_corpus import fairseq_job
from throughput.sides import OURS, PEAK, Tuning, gemm, ours, peers
from throughput.teams import alternate
from throughput.workload import Workload


def compare(
    corpus: Path,
    *,
    d_model: int,
    names: list[str],
    tuning: Tuning,
    fairseq_python: Path,
    rounds: int,
    steps: int,
    folder: Path,
) -> Comparison:
    """Return this engine against the named peers over `rounds` turns of `steps` updates; `folder` takes scratch files.

    RuntimeError when a side trained on other target tokens than the rest.
    """
    folder.mkdir()
    job = {"corpus": str(corpus), "d_model": d_model, "steps": (rounds + 1) * steps, "scratch": str(folder)}
    workload = Workload.of(job)
    batches = workload.batches()
    for_fairseq = fairseq_job(workload, batches, folder / "fairseq") if "fairseq" in names else {}
    known = peers(tuning, fairseq_python=fairseq_python, fairseq_settings=for_fairseq)
    sides = [ours(), *(known[name] for name in names)]
    turns = alternate([*sides, gemm()], job, rounds=rounds, steps=steps, logs=folder, label=f"d_model {d_model}")
    gemm_turns = turns.pop(PEAK)
    planned = [batches[start : start + steps] for start in range(steps, len(batches), steps)]  # without the warm-up
    for side in sides:
        for turn, planned_batches in zip(turns[side.name], planned, strict=True):
            expected = side.processes * sum(batch.target_tokens for batch in planned_batches)
            if turn.tokens != expected:
                raise RuntimeError(f"{side.name} trained on {turn.tokens} target tokens where {expected} were planned")
    return Comparison(
        ours=OURS,
        turns=turns,
        round_flops=[sum(workload.step_flops(batch) for batch in planned_batches) for planned_batches in planned],
        processes={side.name: side.processes for side in sides},
        descriptions={side.name: side.description for side in sides},
        equal=workload.equal,
        gemm_turns=gemm_turns,
    )
