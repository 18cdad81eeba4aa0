"""Benchmarks end with one JSON object that names its peers, ratios and what was kept equal; their parts do what they say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from multiprocessing import Pipe
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from torch import nn

from pipeline.corpora.prepared import PreparedCorpus
from pipeline.errors import StudyError
from pipeline.models.seq2seq import BOS, build
from pipeline.size import SizeSpec
from throughput.comparison import Comparison
from throughput.fairseq_corpus import fairseq_job
from throughput.search import CHOICES, search
from throughput.sides import CORES, Tuning
from throughput.teams import Side, Team, Turn
from throughput.translating import serve
from throughput.translation import Choice, Measured, Task, Work, best_choices, measured_against, unlike_fairseq
from throughput.turns import Turns
from throughput.workload import Workload
from translate_throughput import at_edge, table


def _record(script: str, *arguments: str) -> tuple[str, dict[str, Any]]:
    """Run a benchmark and return its first line, and its last one read as JSON."""
    command = [sys.executable, f"benchmarks/{script}.py", *arguments]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    first, *_, last = answer.stdout.splitlines()
    record = json.loads(last)
    assert record["benchmark"] == script
    assert {"machine", "ours", "peers", "ratio", "equal"} <= set(record)
    assert set(record["peers"]) == set(record["ratio"])
    return first, record


def test_the_engine_against_its_peers(corpus: PreparedCorpus, tmp_path: Path) -> None:
    places = ["--corpus", str(corpus.path), "--fairseq-env", str(tmp_path / "absent")]
    small = ["--d-model", "16", "--rounds", "2", "--steps", "2", "--peers", "trainer", "plain_loop", "fairseq"]
    first, record = _record("train_throughput", *small, *places)
    assert first.startswith("fairseq: skipped")
    assert set(record["peers"]) == {"trainer", "plain_loop"}
    for peer, ratios in record["ratio"].items():
        for size, ratio in ratios.items():
            low, high = record["spread"][peer][size]
            assert 0 < low <= ratio <= high
            assert min(record["ours"][size], record["peers"][peer][size], record["peak_bytes"][peer][size]) > 0
            assert 0 < record["share_of_gemm"][peer][size] < 1


def test_a_gpus_benchmark_tried_on_a_cpu() -> None:
    small = ["--cpu", "--d-model", "16", "--layers", "1", "--rows", "2", "--gemm-width", "64", "--rounds", "1"]
    _, record = _record("gpu_throughput", *small)
    for peer, ratios in record["ratio"].items():
        for size, ratio in ratios.items():
            assert ratio == pytest.approx(record["ours"][size] / record["peers"][peer][size])


def test_without_a_gpu_its_benchmark_is_one_clear_line() -> None:
    answer = subprocess.run(
        [sys.executable, "benchmarks/gpu_throughput.py"],
        capture_output=True,
        text=True,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
    )
    assert answer.returncode == 1
    assert answer.stderr.count("\n") == 1
    assert "no GPU here" in answer.stderr


def test_operations_as_usual_and_as_the_engine_does_them() -> None:
    first, record = _record("operations", "--d-model", "32", "--rounds", "2")
    assert first.split() == ["usual", "ours", "ratio"]
    assert all(ratio > 0 for ratio in record["ratio"]["usual"].values())


def test_where_a_steps_time_goes(corpus: PreparedCorpus) -> None:
    small = ["--d-model", "16", "--steps", "2", "--rows", "3", "--corpus", str(corpus.path)]
    answer = subprocess.run(
        [sys.executable, "benchmarks/step_profile.py", *small], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    head, *rows, last = answer.stdout.splitlines()
    taken = json.loads(last)["milliseconds_a_step"]
    assert float(head.split()[0]) == pytest.approx(sum(taken.values()), abs=0.05)
    assert [row.split()[-1] for row in rows] == list(taken)[:3]
    assert "aten::mm" in taken


def test_branches_against_planned_runs(corpus: PreparedCorpus, tmp_path: Path) -> None:
    small = ["--study", "smoke", "--size", "w16x1", "--seconds", "0.4", "--compared", "1", "--seeds", "2"]
    first, record = _record("branches", *small, "--corpus", str(corpus.path), "--results", str(tmp_path / "out.json"))
    assert "branch" in first
    assert json.loads((tmp_path / "out.json").read_text(encoding="utf-8")) == record
    (row,) = record["losses"]
    assert len(row["branch_loss"]) == 2
    assert row["low_percent"] < row["difference_percent"] < row["high_percent"]
    assert record["ratio"]["planned_runs"] > 1


def test_a_sweep_of_learning_rates_goes_on_from_what_it_has(corpus: PreparedCorpus, tmp_path: Path) -> None:
    rates = ["0.001", "0.004"]
    small = ["--study", "smoke", "--width", "16", "--layers", "1", "--seconds", "0.4", "--corpus", str(corpus.path)]
    command = [sys.executable, "benchmarks/learning_rates.py", *small, "--results", str(tmp_path / "rates.csv")]
    subprocess.run([*command, "--rate", *rates], check=True, capture_output=True)
    before = (tmp_path / "rates.csv").read_text(encoding="utf-8")
    answer = subprocess.run([*command, "--rate", *rates], check=True, capture_output=True, text=True)
    assert (tmp_path / "rates.csv").read_text(encoding="utf-8") == before
    assert len(before.splitlines()) == 3
    assert "at the edge of the rates tried" in answer.stdout


@pytest.fixture(scope="module")
def small_model(corpus: PreparedCorpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of random weights for the small corpus."""
    model = build(SizeSpec(d_model=16, num_layers=1), vocab_size=corpus.vocab_size, seed=0)
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    return folder


def test_our_decoder_against_its_peers(corpus: PreparedCorpus, small_model: Path, tmp_path: Path) -> None:
    places = ["--corpus", str(corpus.path), "--model", str(small_model), "--fairseq-env", str(tmp_path / "absent")]
    small = ["--sentences", "12", "--rounds", "1", "--batch", "40", "--max-length", "12", "--beam", "2"]
    small += ["--processes", "1", "--peers", "transformers", "transformers-default", "ctranslate2-int8", "fairseq"]
    first, record = _record("translate_throughput", *small, *places)
    assert first.startswith("fairseq: skipped")
    assert set(record["peers"]) == {"transformers", "transformers-default", "ctranslate2-int8"}
    assert set(record["sides"]) == {"ours", *record["peers"]}
    model = str(small_model)
    for name, by_model in record["sides"].items():
        found = by_model[model]
        assert min(found["sentences_per_second"], found["tokens_per_second"], found["peak_bytes"]) > 0
        assert 0 < found["batch_ms_p50"] <= found["batch_ms_p95"]
        assert (found["batch_tokens"], found["batch_at_edge"]) == (40, False)  # nothing else was tried
        assert 1 <= found["batch_sentences"] <= 12
        assert 0 <= found["bleu"] <= 100
        assert found["same_as_transformers"] == 1 or name == "ctranslate2-int8"
    for peer, ratio in record["ratio"].items():  # of one round
        assert ratio[model] == pytest.approx(record["ours"][model] / record["peers"][peer][model])
    assert record["sides"]["transformers-default"][model]["description"].endswith("sdpa attention")


@pytest.fixture
def work(corpus: PreparedCorpus, small_model: Path, tmp_path: Path) -> Work:
    """Two sentences for the small model."""
    search = {"beam": 1, "length_penalty": 1.0, "max_length": 5}
    task = Task(
        model=small_model, corpus=corpus.path, sentences=2, search=search, processes=1, threads=1, folder=tmp_path
    )
    return Work(task, [40])


def answered(work: Work, hypotheses: dict[str, list[list[int]]], edge: str = "") -> dict[str, Measured]:
    """Return what is measured of sides that gave these hypotheses, in one turn of one batch."""
    sides = [Side(name=name, description="", module="translator") for name in hypotheses]
    best = {side.name: Choice(side=side, batch_tokens=40, at_edge=side.name == edge) for side in sides}
    answers = {name: (ids, [0.5]) for name, ids in hypotheses.items()}
    return measured_against(answers, {name: [turn(1, 4, peak_bytes=9)] for name in hypotheses}, best, work)


def test_without_transformers_nobody_is_said_to_be_like_it(work: Work) -> None:
    same, other = [[5, 6], [7]], [[5, 6], [8]]
    with_it = answered(work, {"ours": other, "ctranslate2-int8": same, "transformers": same})
    assert [found.row()["same_as_transformers"] for found in with_it.values()] == [0.5, 1, 1]
    rows = {name: found.row() for name, found in answered(work, {"ours": same, "ctranslate2-int8": other}).items()}
    assert [row["same_as_transformers"] for row in rows.values()] == [None, None]
    lines = table(rows, {"ctranslate2-int8": 2.0}).splitlines()
    assert lines[0].split()[-5] == "same"
    assert sorted(line.split()[-1] for line in lines[1:]) == ["-", "2.00x"]
    assert all("-" in line.split() for line in lines[1:])


def test_a_side_that_may_be_faster_with_other_batches_is_named(work: Work) -> None:
    measured = answered(work, {"ours": [[5], [6]], "transformers": [[5], [6]]}, edge="ours")
    (line,) = at_edge(measured)
    assert line.startswith("ours: fastest at 40 tokens a batch, the edge of --batch")
    assert measured["ours"].row()["batch_at_edge"]


def untie(model: Any) -> None:
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())


def set_in_configuration(name: str, value: Any) -> Callable[[Any], None]:
    return lambda model: setattr(model.config, name, value)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (untie, "not tied"),
        (set_in_configuration("tie_word_embeddings", False), "not tied"),
        (set_in_configuration("activation_function", "gelu"), "gelu"),
        (set_in_configuration("scale_embedding", False), "not scaled"),
        (set_in_configuration("decoder_layers", 3), "1 and 3 layers"),
        (set_in_configuration("decoder_ffn_dim", 7), "7 FFN columns"),
        (set_in_configuration("encoder_attention_heads", 4), "heads"),
        (set_in_configuration("model_type", "marian"), "marian"),
    ],
)
def test_fairseq_gets_no_model_that_it_would_run_as_another(
    work: Work, change: Callable[[Any], None], reason: str
) -> None:
    assert unlike_fairseq(work.model) is None
    assert work.fairseq_settings()["start"] == BOS
    change(work.model)
    with pytest.raises(StudyError, match=reason):
        work.fairseq_settings()


def test_every_side_runs_in_its_fastest_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Pretended(Team):
        def __init__(self, side: Side, job: dict[str, Any], *, logs: Path) -> None:
            self.side, self._workers = side, []

        def turn(self, steps: int) -> Turn:
            """Take longer with eager attention, and the further the batch is from 600."""
            return turn(abs(steps - 600) + 1 + 50 * (self.side.settings.get("attention") == "eager"), 1)

    monkeypatch.setattr("throughput.translation.Team", Pretended)
    sides = [Side(name=name, description=name, module="translator") for name in ("ours", "transformers")]
    best = best_choices(sides, {}, [300, 600, 1000], logs=tmp_path / "three")
    assert best["ours"] == Choice(side=sides[0], batch_tokens=600, at_edge=False)
    chosen = best["transformers"]
    assert (chosen.side.name, chosen.side.settings, chosen.batch_tokens) == ("transformers", {"attention": "sdpa"}, 600)
    assert "sdpa" in chosen.side.description
    assert best_choices(sides, {}, [600, 1000], logs=tmp_path / "two")["ours"].at_edge
    one = best_choices(sides, {}, [1000], logs=tmp_path / "one")
    assert one["ours"] == Choice(side=sides[0], batch_tokens=1000, at_edge=False)
    assert one["transformers"].side.settings == {"attention": "sdpa"}


def test_every_process_translates_its_share(tmp_path: Path) -> None:
    ours, theirs = Pipe()
    work = {"sources": [[5, 2], [6, 7, 2], [8, 2]], "batches": {"9": [[2], [1], [0]]}}
    (tmp_path / "work.json").write_text(json.dumps(work), encoding="utf-8")
    job = {"work": str(tmp_path / "work.json"), "answer": str(tmp_path / "answer"), "at_a_time": 2}

    def reversed_order(batch: list[list[int]]) -> list[list[int]]:
        return [ids[-2::-1] for ids in batch]

    def serve_first_of_two() -> None:
        with pytest.raises(SystemExit):  # when the pipe is closed
            serve(Turns(theirs), job | {"process": 0, "processes": 2}, reversed_order)

    worker = Thread(target=serve_first_of_two)
    worker.start()
    ours.send(9)
    assert ours.recv()["tokens"] == 2
    ours.close()
    worker.join()
    answer = json.loads((tmp_path / "answer-0.json").read_text(encoding="utf-8"))
    assert answer["hypotheses"] == {"2": [8], "0": [5]}
    assert len(answer["batch_seconds"]) == 2


def turn(seconds: float, tokens: int, flops: int = 0, peak_bytes: int = 0) -> Turn:
    return Turn(seconds=seconds, tokens=tokens, flops=flops, peak_bytes=peak_bytes)


def test_ratios_are_taken_round_by_round() -> None:
    comparison = Comparison(
        turns={
            "ours": [turn(1, 200), turn(4, 400), turn(1, 200, peak_bytes=7)],  # 200, 100, 200 tokens a second
            "peer": [turn(2, 100), turn(8, 200), turn(4, 100, peak_bytes=5)],  # 50, 25, 25
        },
        round_flops=[1000, 2000, 1000],
        processes={"ours": 2, "peer": 1},
        descriptions={},
        equal="",
        ours="ours",
        gemm_turns=[turn(1, 0, flops=8000), turn(2, 0, flops=20000), turn(1, 0, flops=5000)],
    )
    assert comparison.ratios("peer") == [4, 4, 8]
    assert comparison.tokens_per_second("ours") == 200
    assert comparison.tokens_per_second("peer") == 25
    assert comparison.gemm_flops_per_second() == 10000
    assert comparison.peak_share("ours") == pytest.approx(2000 / 10000)  # of 2000, 1000 and 2000
    assert comparison.peak_share("peer") == pytest.approx(250 / 10000)  # of 500, 250 and 250
    assert (comparison.peak_bytes("ours"), comparison.peak_bytes("peer")) == (7, 5)


def test_a_program_that_runs_by_itself_is_counted_turn_by_turn() -> None:
    ours, theirs = Pipe()
    turns = Turns(theirs)
    for steps in (2, 1, 9):
        ours.send(steps)
    assert turns.wait() == 2
    turns.count_step(10)
    assert not ours.poll()
    turns.count_step(20)
    assert ours.recv()["tokens"] == 30
    turns.count_step(5)
    assert ours.recv()["tokens"] == 5
    ours.close()
    with pytest.raises(SystemExit):
        turns.wait()


def test_a_worker_has_the_variables_of_its_side_alone_and_its_end_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1")
    python = tmp_path / "python"
    python.write_text(
        "#!/bin/sh\necho threads=$OMP_NUM_THREADS trim=$MALLOC_TRIM_THRESHOLD_\nexit 1\n", encoding="utf-8"
    )
    python.chmod(0o755)
    side = Side(
        name="short", description="", module="none", environment={"MALLOC_TRIM_THRESHOLD_": "5"}, python=str(python)
    )
    with Team(side, {"d_model": 1}, logs=tmp_path) as team, pytest.raises(RuntimeError, match="threads= trim=5"):
        team.turn(1)


def test_the_search_ends_with_the_fastest_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pretended(sides: list[Side], *arguments: object, **options: object) -> dict[str, list[Turn]]:
        def seconds(side: Side) -> float:
            eager, bf16 = side.settings["attention"] == "eager", side.settings["arguments"]["bf16"]
            wrong = [eager != bf16, not bf16, side.settings["arguments"]["optim"] != "adamw_torch"]
            wrong += [side.processes != CORES, side.environment["OMP_NUM_THREADS"] != "1", len(side.environment) == 1]
            return 1 + sum(wrong)

        return {side.name: [turn(seconds(side), 60)] for side in sides}

    monkeypatch.setattr("throughput.search.alternate", pretended)
    choices = list(search({}, rounds=1, steps=1, logs=tmp_path))
    assert len(choices) >= len(CHOICES)
    winner, rate = next(iter(choices[-1][1].items()))
    assert rate == 60
    assert winner == Tuning(attention="eager", bf16=True, optim="adamw_torch", processes=CORES, threads=1, malloc=True)


def test_fairseq_reads_the_same_tokens_in_the_same_batches(corpus: PreparedCorpus, tmp_path: Path) -> None:
    workload = Workload.of({"corpus": str(corpus.path), "d_model": 16, "steps": 3})
    batches = workload.batches()
    job = fairseq_job(workload, batches, tmp_path / "fairseq")
    assert job["batch_rows"] == [len(batch) for batch in batches]
    targets = [row[row >= 0].tolist()[:-1] for batch in batches for row in batch.labels]  # without </s>
    sources = [row[row != 1].tolist()[:-1] for batch in batches for row in batch.source]
    for side, sentences in (("source", sources), ("target", targets)):
        lines = (tmp_path / "fairseq" / f"train.source-target.{side}").read_text(encoding="utf-8").splitlines()
        assert [[int(token) for token in line.split()] for line in lines] == sentences
        entries = (tmp_path / "fairseq" / f"dict.{side}.txt").read_text(encoding="utf-8").splitlines()
        assert [int(entry.split()[0]) for entry in entries] == list(range(4, corpus.vocab_size))


def test_a_missing_corpus_is_named_with_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="dvc repro prepare@default"):
        Workload.of({"corpus": str(tmp_path), "d_model": 16, "steps": 1})


@pytest.mark.slow
def test_the_graph_side_by_side_against_dvc() -> None:
    _, record = _record("makespan", "--only", "trivial", "--stages", "4", "--trivial-jobs", "2")
    assert record["measured"]["trivial"]["stages"] == 4
    assert record["measured"]["trivial"]["lock_entries_that_differ"] == []
