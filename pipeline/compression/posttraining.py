"""Post-training quantization of a pretrained run: every bit width under every match, nothing trained."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pipeline.budget import Ledger
from pipeline.compression.candidate import Candidate, put_on_grid
from pipeline.compression.formats import save_compressed
from pipeline.compression.pruning import apply_masks, compressible
from pipeline.compression.quantization import quantize_rows
from pipeline.corpora.prepared import PreparedCorpus
from pipeline.expansion import quantize_recipe
from pipeline.files import atomic_path, write_json
from pipeline.models.checkpoint import load_dense, model_directory, read_run
from pipeline.training.pretraining import branch_of, run_record, size_of

if TYPE_CHECKING:
    from pipeline.models.seq2seq import Model


def rounded(
    model: Model, entry: dict[str, Any], *, bits: int | None, masks: Mapping[str, torch.Tensor] | None
) -> Candidate:
    """Return a copy of a model, pruned by masks and with rows of `bits` bits, ready to be saved."""
    size = size_of(entry)
    candidate = Candidate(model=copy.deepcopy(model), size=size, trained_size=size, ledger=Ledger(), run={})
    candidate.masks = dict(masks or {})
    apply_masks(candidate.model, candidate.masks)
    for name, weight in compressible(candidate.model).items() if bits else ():
        mask = candidate.masks.get(name)
        values = weight.detach().cpu().numpy()
        quantized = quantize_rows(values, bits or 0, None if mask is None else mask.cpu().numpy())
        put_on_grid(candidate, name, quantized)
    return candidate


def quantize_run(entry: dict[str, Any], *, key: str, parent: Path, corpus: PreparedCorpus, out: Path) -> str:
    """Write ``<match>-q<bits>`` directories for the full branch of every match; return a one-line summary."""
    tokenizer = corpus.tokenizer()
    written: list[str] = []
    metrics: dict[str, Any] = {}
    with atomic_path(out) as temporary:
        temporary.mkdir(parents=True)
        for match in entry["matches"]:
            source = branch_of(parent, match)
            metrics[match] = {"status": "diverged" if source is None else "ok"}
            if source is None:
                continue
            parent_run = read_run(source)
            model = load_dense(source)
            for bits in entry["bits"]:
                recipe = quantize_recipe(bits)
                record = run_record(
                    entry,
                    vocab_size=corpus.vocab_size,
                    match=match,
                    run_id=f"{key}-{match}-{recipe}",
                    parent_id=parent_run["run_id"],
                    config_id=f"{entry['size']}/{recipe}",
                    budget=parent_run["budget"],
                    method="quantize",
                    recipe=recipe,
                    bits=bits,
                    ledger=parent_run["ledger"],
                    steps=parent_run["steps"],
                    precision=parent_run["precision"],
                )
                path = temporary / f"{match}-{recipe}"
                with model_directory(path, tokenizer=tokenizer, run=record, corpus=corpus.card) as directory:
                    save_compressed(rounded(model, entry, bits=bits, masks=None), directory)
                written.append(path.name)
        write_json(temporary / "metrics.json", metrics)
    return f"{key}: wrote {', '.join(written) or 'nothing, for the run diverged'}"
