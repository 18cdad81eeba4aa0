"""transformers' Seq2SeqTrainer, its callback blocking between turns."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import Sampler, SequentialSampler
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, TrainerCallback
from transformers.models.m2m_100 import M2M100ForConditionalGeneration

from pipeline.corpora.batches import Batch
from pipeline.models.seq2seq import config_of
from throughput.turns import Turns
from throughput.workload import LEARNING_RATE, Workload


class InOrder(Seq2SeqTrainer):
    """The Trainer, but it takes the batches in their order instead of a random one."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return SequentialSampler(train_dataset)


class TakeTurns(TrainerCallback):
    """Blocks before the first step and after each turn's last one."""

    def __init__(self, turns: Turns, tokens: list[int]) -> None:
        self._turns = turns
        self._tokens = tokens  # by step

    def on_train_begin(self, *arguments: Any, **others: Any) -> None:
        """Wait for the first turn."""
        self._turns.wait()

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Count the update that was made."""
        self._turns.count_step(self._tokens[state.global_step - 1])


def inputs(batch: Batch) -> dict[str, torch.Tensor]:
    """Return a batch under the names that the Trainer gives to its model."""
    return {
        "input_ids": batch.source,
        "attention_mask": batch.source_mask,
        "decoder_input_ids": batch.decoder_input,
        "labels": batch.labels,
    }


def main() -> None:
    """Take turns until there are no more."""
    turns, job = Turns.join()
    workload = Workload.of(job)
    training, batches = workload.study.training, workload.batches()
    config = config_of(workload.size, vocab_size=workload.corpus.vocab_size)
    config._attn_implementation = job["attention"]
    config.use_cache = job["use_cache"]
    # The job's `arguments` are what a tuned side changes; everything else that speed hangs on is left at its default.
    arguments = Seq2SeqTrainingArguments(
        output_dir=job["scratch"],
        max_steps=len(batches),
        per_device_train_batch_size=1,  # an item of the data set is a whole batch
        learning_rate=LEARNING_RATE,
        weight_decay=training.weight_decay,
        max_grad_norm=training.clip_norm,
        label_smoothing_factor=training.label_smoothing,
        use_cpu=True,
        remove_unused_columns=False,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **job["arguments"],
    )
    InOrder(
        model=M2M100ForConditionalGeneration(config),
        args=arguments,
        train_dataset=[inputs(batch) for batch in batches],
        data_collator=lambda items: items[0],
        callbacks=[TakeTurns(turns, [batch.target_tokens for batch in batches])],
    ).train()


if __name__ == "__main__":
    main()
