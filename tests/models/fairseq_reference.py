"""Run with fairseq's own Python: trains tiny models on a toy task and writes what they compute. Argument: a folder.

The folder holds train, valid and test text in two languages (.a and .b) and variants.json: for every model its name, its
two languages, whether the dictionary is joined, and its options. Written beside: `name`.npz (logits of the test set, one
batch of sources padded on the left) and `name`.json (beam-5 hypotheses of fairseq's generator for all of it).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairseq import checkpoint_utils
from fairseq.data import data_utils
from fairseq_cli import preprocess, train

BATCH = 7
TRAINING = """--arch transformer_tiny --optimizer adam --lr 0.004 --lr-scheduler inverse_sqrt --warmup-updates 40
--max-tokens 500 --max-update 120 --cpu --seed 1 --dropout 0.1 --num-workers 0 --disable-validation
--no-epoch-checkpoints --required-batch-size-multiple 1 --log-format none --max-source-positions 64
--max-target-positions 64"""


def command(main: Any, arguments: list[str]) -> None:
    """Run a fairseq command in this process."""
    sys.argv[1:] = arguments
    main()


def make(folder: Path, variant: dict[str, Any]) -> Path:
    """Preprocess the text and train one model; return its checkpoint."""
    data, models = folder / f"{variant['name']}-data", folder / f"{variant['name']}-model"
    languages = ["--source-lang", variant["source"], "--target-lang", variant["target"]]
    paths = ["--trainpref", str(folder / "train"), "--validpref", str(folder / "valid"), "--destdir", str(data)]
    command(preprocess.cli_main, [*languages, *paths, *(["--joined-dictionary"] if variant["joined"] else [])])
    command(train.cli_main, [str(data), *TRAINING.split(), "--save-dir", str(models), *languages, *variant["options"]])
    return models / "checkpoint_last.pt"


def lines(path: Path) -> list[str]:
    """Return a file's lines."""
    return path.read_text(encoding="utf-8").splitlines()


def compute(folder: Path, variant: dict[str, Any], checkpoint: Path) -> None:
    """Write the model's logits and hypotheses."""
    with torch.serialization.safe_globals([argparse.Namespace]):
        models, _, task = checkpoint_utils.load_model_ensemble_and_task(
            [str(checkpoint)], arg_overrides={"data": str(folder / f"{variant['name']}-data")}
        )
    model = models[0].eval()
    ids = {}
    for side, dictionary in (("source", task.source_dictionary), ("target", task.target_dictionary)):
        text = lines(folder / f"test.{variant[side]}")
        ids[side] = [dictionary.encode_line(line, add_if_not_exist=False).long() for line in text]
    pad, eos = task.source_dictionary.pad(), task.source_dictionary.eos()
    sources = data_utils.collate_tokens(ids["source"], pad, left_pad=True)
    before = data_utils.collate_tokens(ids["target"], pad, eos, left_pad=False, move_eos_to_beginning=True)
    lengths = torch.tensor([len(row) for row in ids["source"]])
    with torch.no_grad():
        logits, _ = model(sources, lengths, before)
    generator = task.build_generator([model], argparse.Namespace(beam=5, max_len_a=0, max_len_b=200))
    hypotheses = []
    for start in range(0, len(ids["source"]), BATCH):
        batch = ids["source"][start : start + BATCH]
        sample = {
            "net_input": {
                "src_tokens": data_utils.collate_tokens(batch, pad, left_pad=True),
                "src_lengths": torch.tensor([len(row) for row in batch]),
            }
        }
        for answers in task.inference_step(generator, [model], sample):
            hypotheses.append([{"ids": a["tokens"].tolist(), "score": float(a["score"])} for a in answers])
    texts = [task.target_dictionary.string(torch.tensor(answers[0]["ids"])) for answers in hypotheses]
    written = {"hypotheses": hypotheses, "texts": texts, "target_symbols": len(task.target_dictionary)}
    encode = task.source_dictionary.encode_line
    written["odd_ids"] = [encode(line, add_if_not_exist=False).tolist() for line in variant["odd_lines"]]
    (folder / f"{variant['name']}.json").write_text(json.dumps(written), encoding="utf-8")
    np.savez(folder / f"{variant['name']}.npz", logits=logits.numpy(), before=before.numpy())


def main() -> None:
    """Make every variant."""
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    for variant in json.loads((folder / "variants.json").read_text(encoding="utf-8")):
        compute(folder, variant, make(folder, variant))


if __name__ == "__main__":
    main()
