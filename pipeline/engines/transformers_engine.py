"""transformers' own generate: the reference of every other engine, on the model's own device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from pipeline.engines.search import BeamSearch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from pipeline.models.seq2seq import Model


class TransformersEngine:
    """Beam search in transformers' generate, on the model's own device."""

    name = "transformers"

    def __init__(self, model: Model, tokenizer: PreTrainedTokenizerFast) -> None:
        self.model = model
        self.pad, self.bos, self.eos = tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id

    def submit(self, sources: list[list[int]], search: BeamSearch) -> list[Any]:
        """Translate one batch at once."""
        from transformers import GenerationConfig

        width = max(map(len, sources))
        device = self.model.lm_head.weight.device
        source = torch.tensor([ids + [self.pad] * (width - len(ids)) for ids in sources], device=device)
        lengths = torch.tensor([len(ids) for ids in sources], device=device)
        mask = (torch.arange(width, device=device) < lengths.unsqueeze(1)).long()
        # transformers warns about beam settings where there is one beam.
        ranking = {"length_penalty": search.length_penalty, "early_stopping": True} if search.beam > 1 else {}
        config = GenerationConfig(
            num_beams=search.beam,
            **ranking,
            min_new_tokens=1,
            max_new_tokens=search.max_length,
            do_sample=False,
            decoder_start_token_id=self.model.config.decoder_start_token_id,
            bos_token_id=self.bos,
            pad_token_id=self.pad,
            eos_token_id=self.eos,
            suppress_tokens=[self.bos, self.pad],
            renormalize_logits=True,
        )
        training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():  # not inference_mode: optimum-quanto's tensors do not take it
                output = self.model.generate(
                    input_ids=source, attention_mask=mask, generation_config=config, use_model_defaults=False
                )
        finally:
            self.model.train(training)
        return list(output[:, 1:].tolist())

    def collect(self, handle: Any) -> list[int]:
        """Return a finished row up to its </s>."""
        ids: list[int] = handle
        return ids[: ids.index(self.eos)] if self.eos in ids else ids
