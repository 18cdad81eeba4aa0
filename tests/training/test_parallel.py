"""Two processes under torchrun make the run that one makes; so do micro-batches; and a stop stops both."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from pipeline.corpora.batches import Batch, BatchStream
from pipeline.corpora.prepared import PreparedCorpus
from pipeline.errors import StudyError
from pipeline.evaluation.losses import validation_loss
from pipeline.files import read_json
from pipeline.models.checkpoint import read_run
from pipeline.models.seq2seq import build
from pipeline.params import combined, write_params
from pipeline.size import SizeSpec
from pipeline.training import parallel
from pipeline.training.forward import FusedForward, ReferenceForward
from pipeline.training.objectives import CrossEntropy
from pipeline.training.pretraining import pretrain
from stages.entry import changed_entry
from tests.runs import PRETRAIN

SHORT = PRETRAIN | {"budgets": {"seconds": "20 s"}, "checkpoint_seconds": 1e9}
EXACT, RANDOM = SHORT | {"dropout": 0.0}, SHORT | {"dropout": 0.2}
NAME = "seconds/model.safetensors"


def _run(
    corpus: PreparedCorpus, folder: Path, entry: dict[str, Any], *, stop: list[int] | None = None
) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    return {"corpus": str(corpus.path), "folder": str(folder), "entry": entry, "stop": stop}


def _torchrun(
    program: list[str], *, processes: int = 2, folder: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    settings = os.environ | {"PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"} | environment
    return subprocess.run([*command, *program], cwd=folder, env=settings, capture_output=True, text=True)


def _together(runs: list[dict[str, Any]], folder: Path, **environment: str) -> None:
    """Make runs in two processes; the same two make all of them, because starting them takes longer than a tiny run."""
    settings = folder / "settings.json"
    settings.write_text(json.dumps(runs), encoding="utf-8")
    answer = _torchrun(["tests/training/together.py", str(settings)], **environment)
    assert answer.returncode == 0, answer.stderr


def _alone(corpus: PreparedCorpus, folder: Path, entry: dict[str, Any]) -> Path:
    out = folder / "out"
    pretrain(entry, key="tiny", corpus=corpus, out=out, work=folder / "work", validate=validation_loss(corpus))
    return out


def _assert_same_run(first: Path, second: Path) -> None:
    curves = [pd.read_csv(out / "curve.csv") for out in (first, second)]
    assert curves[0].columns.tolist() == curves[1].columns.tolist()
    for column in curves[0].columns:
        if column.endswith("_loss"):
            np.testing.assert_allclose(curves[1][column], curves[0][column], rtol=1e-5)
        else:
            assert curves[1][column].equals(curves[0][column]), column  # one process's ledger, tokens and seconds
    assert read_run(first / "seconds")["ledger"] == read_run(second / "seconds")["ledger"]
    start = build(SizeSpec(d_model=16, num_layers=1, num_heads=1, ffn_dim=64), vocab_size=300, seed=0).state_dict()
    weights = [load_file(out / NAME) for out in (first, second)]
    for name, weight in weights[0].items():
        if name.endswith("k_proj.bias"):
            continue  # it moves all logits of a query alike: its gradient is 0 but for rounding, which Adam follows
        assert torch.allclose(weights[1][name], weight, rtol=1e-3, atol=1e-4), name
        if name in start and start[name].shape == weight.shape:
            assert not torch.allclose(start[name], weight, rtol=1e-3, atol=1e-3), f"{name} was not trained"


@pytest.fixture(scope="module")
def pair(corpus: PreparedCorpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of two processes: without dropout; in micro-batches too; with dropout, whole, and stopped twice."""
    folder = tmp_path_factory.mktemp("pair")
    random = [_run(corpus, folder / "stopped", RANDOM, stop=stop) for stop in ([9, 1], [30, 0], None)]
    whole = _run(corpus, folder / "whole", RANDOM)
    _together([_run(corpus, folder / "exact", EXACT), whole, *random], folder)
    return folder


def test_two_processes_have_the_losses_and_the_weights_of_one(
    pair: Path, corpus: PreparedCorpus, tmp_path: Path
) -> None:
    _assert_same_run(_alone(corpus, tmp_path, EXACT), pair / "exact" / "out")


def test_only_the_first_process_reports(pair: Path) -> None:
    assert "validation loss" in (pair / "exact" / "ends-0.txt").read_text()
    assert (pair / "exact" / "ends-1.txt").read_text() == "\n"


def test_a_signal_to_one_stops_both_and_they_end_as_if_it_had_not_come(pair: Path) -> None:
    for process in (0, 1):
        ends = (pair / "stopped" / f"ends-{process}.txt").read_text().split("\n")
        assert ends[:2] == ["143", "143"]
    whole, stopped = (load_file(pair / name / "out" / NAME) for name in ("whole", "stopped"))
    assert whole.keys() == stopped.keys()
    assert all(torch.equal(stopped[name], weight) for name, weight in whole.items())
    curves = [(pair / name / "out" / "curve.csv").read_bytes() for name in ("whole", "stopped")]
    assert curves[0] == curves[1]


def test_micro_batches_make_the_run_of_whole_batches(
    corpus: PreparedCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _alone(corpus, tmp_path / "whole", EXACT)
    monkeypatch.setenv("TLC_MICRO_BATCH_TOKENS", "70")
    widest, plain = [], CrossEntropy.__call__

    def observed(self: CrossEntropy, forward: Any, batch: Batch, *, step: int) -> torch.Tensor:
        widest.append(max(batch.source.numel(), batch.labels.numel()))
        return plain(self, forward, batch, step=step)

    monkeypatch.setattr(CrossEntropy, "__call__", observed)
    _assert_same_run(whole, _alone(corpus, tmp_path / "parts", EXACT))
    assert max(widest) <= 70


def test_the_parts_of_a_batch_are_its_rows_padded_alone(corpus: PreparedCorpus) -> None:
    stream = BatchStream(corpus.split("train"), batch_tokens=400, seed=0)
    trimmed = 0
    for batch in (next(stream) for _ in range(20)):
        assert batch.split(1) == [batch]
        for count in (2, 3, 10**6):
            parts = batch.split(count)
            assert len(parts) == min(count, len(batch))
            assert torch.equal(torch.cat([part.indices for part in parts]), batch.indices)
            assert sum(part.target_tokens for part in parts) == batch.target_tokens
            assert sum(part.source_tokens for part in parts) == batch.source_tokens
            assert max(map(len, parts)) - min(map(len, parts)) <= 1
            for part in parts:
                assert part.source_mask.any(0).all()
                assert (part.labels != -100).any(0).all()
                trimmed += part.source.shape[1] < batch.source.shape[1]
        limit = 3 * max(batch.source.shape[1], batch.labels.shape[1])
        assert all(max(part.source.numel(), part.labels.numel()) <= limit for part in batch.within(limit))
        assert [len(part) for part in batch.within(1)] == [1] * len(batch)
    assert trimmed, "no part was narrower than its batch"


def test_a_process_without_a_share_waits_for_the_others(
    corpus: PreparedCorpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = next(BatchStream(corpus.split("train"), batch_tokens=300, seed=0))
    monkeypatch.setattr(parallel, "count", lambda: len(batch) + 1)
    shares = []
    for number in range(len(batch) + 1):
        monkeypatch.setattr(parallel, "rank", lambda number=number: number)
        shares.append(parallel.share_of(batch))
    assert shares[-1] is None
    assert [len(share) for share in shares[:-1] if share] == [1] * len(batch)


@pytest.mark.slow
def test_more_processes_than_some_batches_have_rows(corpus: PreparedCorpus, tmp_path: Path) -> None:
    entry = EXACT | {"batch_tokens": 50, "budgets": {"seconds": "10 s"}}
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps([_run(corpus, tmp_path / "three", entry)]), encoding="utf-8")
    answer = _torchrun(["tests/training/together.py", str(settings)], processes=3, TLC_MICRO_BATCH_TOKENS="25")
    assert answer.returncode == 0, answer.stderr
    _assert_same_run(_alone(corpus, tmp_path / "one", entry), tmp_path / "three" / "out")


def test_a_checkpoint_of_other_processes_is_refused(
    pair: Path, corpus: PreparedCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.training.state import TrainState

    plain = TrainState.state_dict
    monkeypatch.setattr(TrainState, "state_dict", lambda self: plain(self) | {"rng": plain(self)["rng"] * 2})
    with pytest.raises(StudyError, match=r"made by 2 process\(es\) on the CPU"):
        _alone(corpus, tmp_path, EXACT)


def test_what_a_machine_cannot_do_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.training.devices import compiles, micro_batch_tokens, training_device

    for name, value, asked in (
        ("TLC_DEVICE", "gpu", training_device),
        ("TLC_COMPILE", "yes", compiles),
        ("TLC_MICRO_BATCH_TOKENS", "-3", micro_batch_tokens),
    ):
        monkeypatch.setenv(name, value)
        with pytest.raises(StudyError, match=f"{name}={value}"):
            asked()
        monkeypatch.delenv(name)
    monkeypatch.setenv("TLC_DEVICE", "cuda")
    monkeypatch.setenv("LOCAL_RANK", "4096")
    with pytest.raises(StudyError, match="no GPU"):
        training_device()


def test_other_stages_refuse_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(StudyError, match="pretrain alone is made for torchrun"):
        changed_entry("prune", "default-w32x2-s0", None, None)


def test_fused_attention_is_the_same_model_and_is_not_saved_with_it(corpus: PreparedCorpus, tmp_path: Path) -> None:
    batch = next(BatchStream(corpus.split("train"), batch_tokens=300, seed=0))
    losses, configs = [], []
    for attention in ("eager", "sdpa"):
        model = build(SizeSpec(d_model=16, num_layers=1, num_heads=2), vocab_size=300, seed=0)
        model.set_attn_implementation(attention)
        losses.append(
            CrossEntropy(label_smoothing=0.1)(ReferenceForward(model, precision="fp32"), batch, step=0).item()
        )
        model.save_pretrained(tmp_path / attention)
        configs.append(read_json(tmp_path / attention / "config.json"))
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert configs[0] == configs[1]


@pytest.mark.slow
def test_a_compiled_model_has_the_same_parameters_and_gradient(
    corpus: PreparedCorpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_ = torch.compile  # the graph alone, without the minutes of making kernels
    monkeypatch.setattr(torch, "compile", lambda module, **options: compile_(module, backend="eager", **options))
    batch = next(BatchStream(corpus.split("train"), batch_tokens=300, seed=0))
    ends = []
    for compiled in (False, True):
        model = build(SizeSpec(d_model=16, num_layers=1, num_heads=2), vocab_size=300, seed=0)
        names = [name for name, _ in model.named_parameters()]
        forward = ReferenceForward(model, precision="fp32", compiled=compiled)
        for part in (batch, *batch.split(2)):
            loss = CrossEntropy(label_smoothing=0.1)(forward, part, step=0)
            loss.backward()
            forward.weights.gather_gradient()
        assert [name for name, _ in model.named_parameters()] == names
        ends.append((loss.item(), forward.weights.gradient))
    assert ends[1][0] == pytest.approx(ends[0][0], rel=1e-5)
    assert torch.allclose(ends[1][1], ends[0][1], rtol=1e-4, atol=1e-6)


def test_micro_batches_are_summed_in_fp32_whatever_the_matmuls_run_in(corpus: PreparedCorpus) -> None:
    batch = next(BatchStream(corpus.split("train"), batch_tokens=300, seed=0))
    forward = FusedForward(build(SizeSpec(d_model=16, num_layers=1), vocab_size=300, seed=0), precision="bf16")
    weights, parts = forward.weights, batch.split(3)
    expected = torch.zeros_like(weights.gradient)
    for part in parts:
        CrossEntropy(label_smoothing=0.1)(forward, part, step=0).backward()
        weights.gather_gradient()
        expected += weights.gradient
    for number, part in enumerate(parts):
        CrossEntropy(label_smoothing=0.1)(forward, part, step=0).backward()
        weights.gather_gradient(add=number > 0)
    assert torch.allclose(weights.gradient, expected, rtol=1e-5, atol=1e-8)  # bf16 would round at 4e-3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_a_run_trains_resumes_and_loads_on_a_cpu(
    corpus: PreparedCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.models.checkpoint import load_dense
    from pipeline.training.interrupts import Interrupted
    from tests.runs import at_steps

    on_cpu = pd.read_csv(_alone(corpus, tmp_path / "cpu", EXACT) / "curve.csv")
    monkeypatch.setenv("TLC_DEVICE", "cuda")
    on_gpu = pd.read_csv(_alone(corpus, tmp_path / "gpu", EXACT) / "curve.csv")
    np.testing.assert_allclose(on_gpu.valid_loss, on_cpu.valid_loss, rtol=1e-3)
    whole = _alone(corpus, tmp_path / "whole", RANDOM | {"precision": "bf16"})
    at_steps(monkeypatch, (20,), lambda: os.kill(os.getpid(), 15))
    with pytest.raises(Interrupted):
        _alone(corpus, tmp_path / "stopped", RANDOM | {"precision": "bf16"})
    stopped = _alone(corpus, tmp_path / "stopped", RANDOM | {"precision": "bf16"})
    losses = [pd.read_csv(out / "curve.csv").valid_loss for out in (whole, stopped)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=2e-3)  # atomic sums of the kernels differ in their last bits
    assert load_dense(stopped / "seconds").device.type == "cpu"


@pytest.mark.slow
def test_the_stage_runs_under_torchrun_and_says_its_line_once(
    corpus: PreparedCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = {"PYTHONPATH": os.getcwd()}
    shutil.copytree("configs", tmp_path / "configs")
    shutil.copytree(corpus.path, tmp_path / "artifacts" / "smoke" / "corpus")
    monkeypatch.chdir(tmp_path)
    write_params(combined([Path("configs/smoke.yaml")]))
    short = ["--set", "budgets={seconds: 10 s}", "--set", "seconds_per_step=0.5", "--out", "out"]
    answer = _torchrun(["-m", "--", "stages.pretrain", "--run", "smoke-w16x1-s0", *short], **code)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.count("validation loss") == 1
    assert load_file(tmp_path / "out" / NAME)
    assert not list((tmp_path / ".work" / "pretrain").iterdir())
