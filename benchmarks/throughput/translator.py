"""One of this project's engines, by name, taking turns to translate."""

from __future__ import annotations

from pathlib import Path

import torch

from pipeline.corpora.prepared import PreparedCorpus
from pipeline.engines.registry import start_engine
from pipeline.engines.search import BeamSearch
from pipeline.evaluation.translation import plain
from throughput.translating import serve
from throughput.turns import Turns


def main() -> None:
    """Take turns until there are no more."""
    turns, job = Turns.join()
    torch.set_num_threads(job["threads"])
    model = plain(Path(job["model"]))
    if "attention" in job:
        model.set_attn_implementation(job["attention"])
        if model.config._attn_implementation != job["attention"]:  # transformers only warns
            raise ValueError(f"{job['model']}: transformers keeps {model.config._attn_implementation} attention")
    tokenizer = PreparedCorpus.open(Path(job["corpus"])).tokenizer()
    engine = start_engine(job["engine"], model, tokenizer, threads=job["threads"], batches=job["at_a_time"])
    search = BeamSearch(**job["search"])

    def translate(sources: list[list[int]]) -> list[list[int]]:
        return [engine.collect(handle) for handle in engine.submit(sources, search)]

    serve(turns, job, translate)


if __name__ == "__main__":
    main()
