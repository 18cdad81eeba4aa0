"""A loop as a PyTorch tutorial writes it: transformers' model in fp32, its default attention, AdamW."""

from __future__ import annotations

from itertools import islice
from typing import Any

import torch
from transformers.models.m2m_100 import M2M100ForConditionalGeneration

from pipeline.models.seq2seq import config_of
from throughput.turns import Turns
from throughput.workload import LEARNING_RATE, Workload


def main() -> None:
    """Take turns until there are no more."""
    turns, job = Turns.join()
    workload = Workload.of(job)
    training = workload.study.training
    config = config_of(workload.size, vocab_size=workload.corpus.vocab_size)
    config._attn_implementation = "sdpa"
    model: Any = M2M100ForConditionalGeneration(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=training.weight_decay)
    loss = torch.nn.CrossEntropyLoss(label_smoothing=training.label_smoothing)
    batches = iter(workload.batches())
    while True:
        tokens = 0
        for batch in islice(batches, turns.wait()):
            logits = model(
                input_ids=batch.source,
                attention_mask=batch.source_mask,
                decoder_input_ids=batch.decoder_input,
                use_cache=False,
            ).logits
            loss(logits.flatten(0, 1), batch.labels.flatten()).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), training.clip_norm)
            optimizer.step()
            optimizer.zero_grad()
            tokens += batch.target_tokens
        turns.report(tokens=tokens)


if __name__ == "__main__":
    main()
