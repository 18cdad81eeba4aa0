"""Translation throughput of our decoder against its peers: the same model, sentences and beam search, in turns, in one run.

    python benchmarks/translate_throughput.py --model artifacts/default/pretrain/default-w64x2-s0/seconds

Needs a prepared corpus and trained models (`make study`). Every side has processes of its own that sleep while another has
its turn; all get the same cores: --processes times --threads (CTranslate2 has one process, of threads instead). A turn is
all sentences from ids to ids, in batches of like length and of the size that was fastest for that side among --batch. The
peers: transformers' generate with the faster of eager and sdpa attention, and as it comes (one process of all threads, sdpa);
CTranslate2 and ONNX Runtime in fp32 and int8; fairseq's generator where `make fairseq-env` has been run. A ratio is its
seconds over ours, the median over rounds. p50 and p95 are of a batch, whose padded source tokens and sentences on average
stand before them: where these differ, they say nothing of who is faster. Memory is what a side's processes had resident at
most, libraries and the conversion of the model included. `same` is the share of hypotheses that are those of the side
`transformers`. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from pipeline.errors import StudyError
from train_throughput import at_least_one, machine

if TYPE_CHECKING:
    from throughput.translation import Measured

PEERS = (
    "transformers",
    "transformers-default",
    "ctranslate2-float32",
    "ctranslate2-int8",
    "onnxruntime-float32",
    "onnxruntime-int8",
    "fairseq",
)
COLUMNS = {
    "sentences_per_second": ("sent/s", 9, ",.0f"),
    "tokens_per_second": ("tokens/s", 10, ",.0f"),
    "batch_tokens": ("batch", 7, "d"),
    "batch_sentences": ("sent/batch", 11, ",.1f"),
    "batch_ms_p50": ("p50 ms", 9, ",.1f"),
    "batch_ms_p95": ("p95 ms", 9, ",.1f"),
    "peak_bytes": ("peak bytes", 15, ",d"),
    "bleu": ("BLEU", 8, ".2f"),
    "same_as_transformers": ("same", 9, ".2%"),
}
"""By key of a row: its title, its width and how its numbers are written."""


def ratios(measured: dict[str, Measured], peer: str) -> list[float]:
    """Return the peer's seconds over ours, round by round."""
    pairs = zip(measured["ours"].turns, measured[peer].turns, strict=True)
    return [its.seconds / mine.seconds for mine, its in pairs]


def at_edge(measured: dict[str, Measured]) -> list[str]:
    """Return a warning for every side that may be faster with batches that were not tried."""
    return [
        f"{name}: fastest at {found.choice.batch_tokens} tokens a batch, the edge of --batch; try more beyond it"
        for name, found in measured.items()
        if found.choice.at_edge
    ]


def table(rows: dict[str, dict[str, Any]], ratio: dict[str, float]) -> str:
    """Return the rows as lines of text, the fastest first."""
    titles = "".join(f"{title:>{width}}" for title, width, _ in COLUMNS.values())
    lines = [f"{'':21}{titles}{'its / our time':>16}"]
    for name in sorted(rows, key=lambda name: -rows[name]["sentences_per_second"]):
        cells = [
            f"{'-' if rows[name][key] is None else format(rows[name][key], form):>{width}}"
            for key, (_, width, form) in COLUMNS.items()
        ]
        end = f"{ratio[name]:.2f}x" if name in ratio else ""
        lines.append(f"{name:21}{''.join(cells)}{end:>16}")
    return "\n".join(lines)


def measure_model(model: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measure all sides with one model, print their table, and return what the record says of it."""
    from throughput.sides import OURS
    from throughput.translation import Task, Work, measure, side

    sizes = list(dict.fromkeys(options.batch))
    with tempfile.TemporaryDirectory() as scratch:
        task = Task(
            model=model,
            corpus=options.corpus,
            sentences=options.sentences,
            search=search(options),
            processes=options.processes,
            threads=options.threads,
            folder=Path(scratch),
        )
        work = Work(task, sizes)
        sides = []
        for name in (OURS, *dict.fromkeys(options.peers)):
            try:
                sides.append(side(name, work, fairseq_python=options.fairseq_env / "bin" / "python"))
            except StudyError as error:
                if name == OURS:
                    raise
                print(f"{name}: skipped, {error}", flush=True)
        measured = measure(sides, work, sizes=sizes, rounds=options.rounds)
    for line in at_edge(measured):
        print(line)
    rows = {name: found.row() for name, found in measured.items()}
    by_peer = {name: ratios(measured, name) for name in measured if name != OURS}
    ratio = {name: median(found) for name, found in by_peer.items()}
    print(f"{model}: {work.sentences} sentences, beam {options.beam}\n{table(rows, ratio)}\n", flush=True)
    return {
        "ours": rows[OURS]["sentences_per_second"],
        "peers": {name: rows[name]["sentences_per_second"] for name in by_peer},
        "ratio": ratio,
        "spread": {name: [min(found), max(found)] for name, found in by_peer.items()},
        "sides": {
            name: {"description": found.choice.side.description} | rows[name] for name, found in measured.items()
        },
        "sentences": work.sentences,
    }


def search(options: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of the beam search."""
    return {"beam": options.beam, "length_penalty": options.length_penalty, "max_length": options.max_length}


def contract(models: dict[str, dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    """Return the record of a run from what was measured with each model; its keys by model are their paths."""

    def by_peer(key: str) -> dict[str, dict[str, Any]]:
        peers = dict.fromkeys(peer for found in models.values() for peer in found[key])
        return {
            peer: {model: found[key][peer] for model, found in models.items() if peer in found[key]} for peer in peers
        }

    return {
        "benchmark": Path(__file__).stem,
        "machine": machine(),
        "unit": "sentences a second",
        "ours": {model: found["ours"] for model, found in models.items()},
        "peers": by_peer("peers"),
        "ratio": by_peer("ratio"),
        "spread": by_peer("spread"),
        "sides": by_peer("sides"),
        "sentences": {model: found["sentences"] for model, found in models.items()},
        "equal": (
            f"the model, the test sentences as ids, {search(options)}, no <s>, <pad> or empty hypothesis, batches of "
            f"like length, the cores ({options.processes} x {options.threads} threads; CTranslate2 and transformers-default have "
            f"them in one process); each its fastest of {list(dict.fromkeys(options.batch))} padded source tokens a batch, and "
            "transformers the faster of eager and sdpa attention; transformers-default has sdpa, its own choice"
        ),
        "rounds": options.rounds,
    }


def run(options: argparse.Namespace) -> None:
    """Measure every model, print a table for each and the record."""
    models = {str(model): measure_model(model, options) for model in dict.fromkeys(options.model)}
    print(json.dumps(contract(models, options)))


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path("artifacts/default")
    parser.add_argument(
        "--model",
        type=Path,
        nargs="+",
        default=[default / "pretrain" / f"default-{size}-s0" / "seconds" for size in ("w64x2", "w128x2")],
        metavar="DIRECTORY",
        help="models, one after the other (of the default study, w64x2 and w128x2)",
    )
    parser.add_argument("--corpus", type=Path, default=default / "corpus", help="a prepared corpus")
    parser.add_argument("--sentences", type=at_least_one, default=2000, help="test sentences, from the first (2000)")
    parser.add_argument("--beam", type=at_least_one, default=4, help="hypotheses a sentence (4)")
    parser.add_argument("--length-penalty", type=float, default=1.0, help="exponent of the length (1)")
    parser.add_argument("--max-length", type=at_least_one, default=80, help="target tokens at most (80)")
    parser.add_argument("--rounds", type=at_least_one, default=3, help="turns of every side, after one of warm-up (3)")
    parser.add_argument("--processes", type=at_least_one, default=os.cpu_count() or 1, help="of every side (all cores)")
    parser.add_argument("--threads", type=at_least_one, default=1, help="of every process (1)")
    parser.add_argument(
        "--batch",
        type=at_least_one,
        nargs="+",
        default=[300, 600, 1000, 2000],
        help="padded source tokens, tried in turn",
    )
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=PEERS, help="whom to compare with (all)")
    parser.add_argument("--fairseq-env", type=Path, default=Path(".venv-fairseq"), help="where fairseq is installed")
    try:
        run(parser.parse_args())
    except StudyError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
