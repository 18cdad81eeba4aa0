"""Models that fairseq itself trained: the same logits, the same hypotheses, the same scores."""

from __future__ import annotations

import json
import os
import random
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, PreTrainedTokenizerFast

from pipeline.corpora.tokenizers_of import source_and_target
from pipeline.models.fairseq_import import import_fairseq

ROOT = Path(__file__).resolve().parents[2]
FAIRSEQ = ROOT / ".venv-fairseq" / "bin" / "python"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not FAIRSEQ.exists(), reason="fairseq is not installed; make fairseq-env installs it"),
]

PRE = ["--encoder-normalize-before", "--decoder-normalize-before"]
SMALLER_DECODER = ["--decoder-layers", "1", "--decoder-attention-heads", "4", "--decoder-ffn-embed-dim", "48"]
LEARNED = ["--encoder-learned-pos", "--decoder-learned-pos", "--no-scale-embedding", "--activation-fn", "gelu_accurate"]
LONGER = ["--max-update", "240", "--lr", "0.002"]
DECODER_TIED = "--share-decoder-input-output-embed"
VARIANTS: dict[str, dict[str, Any]] = {
    "pre-tied": {"joined": True, "options": [*PRE, "--share-all-embeddings", *LONGER]},
    "pre-untied": {"joined": True, "options": PRE},
    "pre-separate": {"options": [*PRE, DECODER_TIED, "--activation-fn", "gelu", *SMALLER_DECODER]},
    "post-tied": {"joined": True, "options": ["--share-all-embeddings", *LONGER]},
    "post-separate": {"options": []},
    "post-learned": {"source": "b", "target": "a", "options": [DECODER_TIED, *LEARNED]},
}
"""Language a has more words than b: with dictionaries of their own, the embeddings have different sizes."""

SENTENCES = 60  # no multiple of the reference's batches
LIMIT = 64  # tokens of a hypothesis; fairseq then adds a </s> whose probability counts, transformers does not
ODD_LINES = ["", " a1\ta2  a3 ", "a1\u00a0a2", "a1\x1ca2", "nowhere a4", "a5 </s> <unk> <s>"]


@dataclass(frozen=True, kw_only=True)
class Imported:
    """A model of ours, its tokenizers, and what fairseq computed with its own."""

    model: Any
    source: PreTrainedTokenizerFast
    target: PreTrainedTokenizerFast
    lines: list[str]
    logits: torch.Tensor
    before: torch.Tensor
    answers: dict[str, Any]


def _write_text(folder: Path) -> None:
    """Sources are random words; a target names each word's half, drops some, replaces some: no answer is certain."""
    rng = random.Random(0)
    for split, rows in (("train", 400), ("valid", 20), ("test", SENTENCES)):
        texts: dict[str, list[str]] = {"a": [], "b": []}
        for _ in range(rows):
            words = [rng.randrange(30) for _ in range(rng.randrange(2, 8))]
            kept = [word // 2 if rng.random() > 0.1 else rng.randrange(15) for word in words if rng.random() > 0.1]
            texts["a"].append(" ".join(f"a{word}" for word in words))
            texts["b"].append(" ".join(f"b{word}" for word in kept or [0]))
        for language, lines in texts.items():
            (folder / f"{split}.{language}").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What fairseq trained and computed: preprocessing, training and generation run once, as one process of its own."""
    folder = tmp_path_factory.mktemp("fairseq")
    _write_text(folder)
    defaults = {"source": "a", "target": "b", "joined": False, "odd_lines": ODD_LINES}
    variants = [defaults | {"name": name} | variant for name, variant in VARIANTS.items()]
    (folder / "variants.json").write_text(json.dumps(variants), encoding="utf-8")
    program = Path(__file__).with_name("fairseq_reference.py")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([FAIRSEQ, program, folder], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.fixture(scope="module", params=VARIANTS)
def imported(request: pytest.FixtureRequest, folder: Path) -> Imported:
    """One of the models, imported and loaded by plain transformers."""
    name, data = request.param, folder / f"{request.param}-data"
    source, target = VARIANTS[name].get("source", "a"), VARIANTS[name].get("target", "b")
    languages = [source] if VARIANTS[name].get("joined") else [source, target]
    model = folder / f"{name}-imported"
    import_fairseq(folder / f"{name}-model" / "checkpoint_last.pt", [data / f"dict.{x}.txt" for x in languages], model)
    arrays = np.load(folder / f"{name}.npz")
    tokenizers = source_and_target(model)
    return Imported(
        model=AutoModelForSeq2SeqLM.from_pretrained(model).eval(),
        source=tokenizers[0],
        target=tokenizers[1],
        lines=(folder / f"test.{source}").read_text(encoding="utf-8").splitlines(),
        logits=torch.from_numpy(arrays["logits"]),
        before=torch.from_numpy(arrays["before"]),
        answers=json.loads((folder / f"{name}.json").read_text(encoding="utf-8")),
    )


def test_logits_are_the_same(imported: Imported) -> None:
    batch = imported.source(imported.lines, padding=True, return_tensors="pt")
    assert batch["input_ids"].eq(1).any(), "padding is what is tested too: ours on the right, fairseq's on the left"
    with torch.no_grad():
        ours = imported.model(**batch, decoder_input_ids=imported.before).logits
    real, symbols = imported.before.ne(1), imported.answers["target_symbols"]
    assert imported.logits.shape[2] == symbols
    difference = (ours[..., :symbols] - imported.logits)[real].abs().max().item()
    normed = (ours.log_softmax(2)[..., :symbols] - imported.logits.log_softmax(2))[real].abs().max().item()
    print(f"largest difference of logits {difference:.1e}, of log-probabilities {normed:.1e}")
    assert imported.logits[real].std() > 0.5
    assert difference <= 1e-5
    assert normed <= 1e-5


def test_hypotheses_are_the_same(imported: Imported) -> None:
    answers = imported.answers["hypotheses"]
    assert len(answers) == len(imported.lines) == SENTENCES
    whole = same = 0
    for line, answer, text in zip(imported.lines, answers, imported.answers["texts"], strict=True):
        best = answer[0]
        if len(best["ids"]) >= LIMIT:
            continue
        whole += 1
        found = imported.model.generate(
            **imported.source(line, return_tensors="pt"), return_dict_in_generate=True, output_scores=True
        )
        assert found.sequences[0, 0] == 2
        ids = found.sequences[0, 1:].tolist()
        same += ids == best["ids"]
        assert abs(found.sequences_scores[0].item() - best["score"]) <= 1e-5
        assert imported.target.decode(ids, skip_special_tokens=True) == text.replace("<unk>", "").strip()
    print(f"same hypotheses: {same} of {whole}; cut at the limit: {SENTENCES - whole}")
    assert same == whole
    assert whole >= 0.95 * SENTENCES


def test_batches_change_nothing(imported: Imported) -> None:
    batch = imported.source(imported.lines, padding=True, return_tensors="pt")
    together = imported.model.generate(**batch)[:, 1:].tolist()
    for ids, answer in zip(together, imported.answers["hypotheses"], strict=True):
        best = answer[0]["ids"]
        assert len(best) >= LIMIT or ids[: len(best)] == best


def test_lines_become_the_same_ids(imported: Imported) -> None:
    assert imported.source(ODD_LINES)["input_ids"] == imported.answers["odd_ids"]
