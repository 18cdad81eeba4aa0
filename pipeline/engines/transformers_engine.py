"""transformers' own generate: the reference of every other engine, on the model's own device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from pipeline.engines.search import BeamSearch

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerFast

    from pipeline.models.seq2seq import Model


def generation_config(search: BeamSearch, *, start: int, bos: int, pad: int, eos: int) -> GenerationConfig:
    """Return the one meaning of a search, for everything that transformers' generate runs; `start` begins the decoder."""
    from transformers import GenerationConfig

    # transformers warns about beam settings where there is one beam.
    ranking = {"length_penalty": search.length_penalty, "early_stopping": True} if search.beam > 1 else {}
    return GenerationConfig(
        num_beams=search.beam,
        **ranking,
        min_new_tokens=1,
        max_new_tokens=search.max_length,
        do_sample=False,
        decoder_start_token_id=start,
        bos_token_id=bos,
        pad_token_id=pad,
        eos_token_id=eos,
        suppress_tokens=[bos, pad],
        renormalize_logits=True,
    )


class Generate:
    """Beam search in transformers' generate, for a torch model or for what offers the same method.

    `bos`, `pad` and `eos` are ids of the target's special tokens; sources are filled with what the model takes for <pad>.
    """

    name = "generate"

    def __init__(self, model: Any, *, bos: int, pad: int, eos: int) -> None:
        self.model = model
        self.bos, self.pad, self.eos = bos, pad, eos

    def submit(self, sources: list[list[int]], search: BeamSearch) -> list[Any]:
        """Translate one batch at once."""
        width, device = max(map(len, sources)), self.model.device
        filler = self.model.config.pad_token_id
        source = torch.tensor([ids + [filler] * (width - len(ids)) for ids in sources], device=device)
        lengths = torch.tensor([len(ids) for ids in sources], device=device)
        mask = (torch.arange(width, device=device) < lengths.unsqueeze(1)).long()
        start = self.model.config.decoder_start_token_id
        config = generation_config(search, start=start, bos=self.bos, pad=self.pad, eos=self.eos)
        with torch.no_grad():  # not inference_mode: optimum-quanto's tensors do not take it
            output = self.model.generate(
                input_ids=source, attention_mask=mask, generation_config=config, use_model_defaults=False
            )
        return list(output[:, 1:].tolist())

    def collect(self, handle: Any) -> list[int]:
        """Return a finished row up to its </s>."""
        ids: list[int] = handle
        return ids[: ids.index(self.eos)] if self.eos in ids else ids


class TransformersEngine(Generate):
    """Beam search in transformers' generate, on the model's own device."""

    name = "transformers"

    def __init__(
        self,
        model: Model,
        tokenizer: PreTrainedTokenizerFast,
        *,
        target_tokenizer: PreTrainedTokenizerFast | None = None,
    ) -> None:
        target = target_tokenizer or tokenizer
        super().__init__(model, bos=target.bos_token_id, pad=target.pad_token_id, eos=target.eos_token_id)

    def submit(self, sources: list[list[int]], search: BeamSearch) -> list[Any]:
        """Translate one batch at once, in eval mode; the model's own mode is put back."""
        training = self.model.training
        self.model.eval()
        try:
            return super().submit(sources, search)
        finally:
            self.model.train(training)
