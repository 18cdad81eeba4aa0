"""Two engines of beam search with one meaning: CTranslate2 (fast, what is deployed) and transformers' own generate.

In both, a hypothesis scores its summed log-probability divided by length ** length_penalty, </s> counted in the
length; the search ends when `beam` hypotheses are finished; <s>, <pad> and an empty hypothesis are never produced, and
what they would have had of the probability goes to the others.
"""

from __future__ import annotations

import copy
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import ctranslate2
import torch
from ctranslate2.converters import TransformersConverter
from ctranslate2.specs.attention_spec import MultiHeadAttentionSpec

from pipeline.errors import StudyError
from pipeline.models.pruned import is_heads_pruned

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from pipeline.models.seq2seq import Model


@dataclass(frozen=True, kw_only=True)
class BeamSearch:
    """How to search: `beam` hypotheses a sentence, at most `max_length` tokens each, </s> included."""

    beam: int
    length_penalty: float
    max_length: int


class _InMemoryConverter(TransformersConverter):
    """The converter, handed a model and a tokenizer instead of reading them from a directory."""

    def __init__(self, directory: Path, model: Model, tokenizer: PreTrainedTokenizerFast) -> None:
        # A copy, because the loader writes into the model's configuration.
        self.model, self.tokenizer = copy.deepcopy(model).cpu(), tokenizer
        self.model.config.dtype = torch.float32
        self.model.config.save_pretrained(directory)
        super().__init__(str(directory))

    def load_model(self, *arguments: Any, **options: Any) -> Model:
        return self.model

    def load_tokenizer(self, *arguments: Any, **options: Any) -> PreTrainedTokenizerFast:
        return self.tokenizer

    def _load(self) -> Any:
        # Without a head's width in every attention, CTranslate2 takes d_model / heads for it, and is silently wrong.
        spec = super()._load()
        if is_heads_pruned(self.model.config):
            head_dim = self.model.config.head_dim
            for layer in (*spec.encoder.layer, *spec.decoder.layer):
                layer.self_attention = _with_head_dim(layer.self_attention, head_dim, self_attention=True)
            for layer in spec.decoder.layer:
                layer.attention = _with_head_dim(layer.attention, head_dim, self_attention=False)
        return spec


def _with_head_dim(attention: Any, head_dim: int, *, self_attention: bool) -> Any:
    """Return an attention's specification with the columns of a head written in."""
    result = MultiHeadAttentionSpec(self_attention=self_attention, head_dim=head_dim)
    result.linear, result.layer_norm = attention.linear, attention.layer_norm
    return result


class Engine(Protocol):
    """What turns source ids into target ids."""

    def submit(self, sources: list[list[int]], search: BeamSearch) -> list[Any]:
        """Start to translate one batch of source ids, </s> included; the handles are for `collect`, one a sentence."""
        ...

    def collect(self, handle: Any) -> list[int]:
        """Return the best hypothesis' ids; special tokens may be among them."""
        ...


def ctranslate2_translator(
    model: Model, tokenizer: PreTrainedTokenizerFast, *, inter_threads: int = 1, intra_threads: int = 1
) -> ctranslate2.Translator:
    """Convert an fp32 model to a CPU translator that works on `inter_threads` batches at a time, `intra_threads` each.

    StudyError where the converter would be silently wrong: heads that differ between encoder and decoder (it uses the
    encoder's for both), a <pad> id other than 1 (it shifts the positions), and a vocabulary of another size than the
    model's.
    """
    config = model.config
    if config.encoder_attention_heads != config.decoder_attention_heads:
        raise StudyError(
            f"CTranslate2 cannot run {config.encoder_attention_heads} encoder heads with "
            f"{config.decoder_attention_heads} decoder heads; use engine 'transformers'"
        )
    if config.pad_token_id != 1:
        raise StudyError(f"CTranslate2 needs <pad> to be id 1, not {config.pad_token_id}; use engine 'transformers'")
    if len(tokenizer) != config.vocab_size:
        raise StudyError(
            f"the tokenizer has {len(tokenizer)} tokens but the model {config.vocab_size}; "
            "use the tokenizer saved with the model"
        )
    with tempfile.TemporaryDirectory(prefix="ctranslate2-") as scratch:
        configuration, converted = Path(scratch, "configuration"), Path(scratch, "converted")
        # The converter's M2M100 loader takes its vocabulary from any tokenizer; language tokens matter to it only where
        # the tokenizer has additional special tokens. The start token comes from decoder_start_token_id: no prefix.
        _InMemoryConverter(configuration, model, tokenizer).convert(str(converted))
        return ctranslate2.Translator(
            str(converted),
            device="cpu",
            compute_type="float32",
            inter_threads=inter_threads,
            intra_threads=intra_threads,
        )


class CTranslate2Engine:
    """Beam search in CTranslate2, weights and arithmetic in fp32."""

    name = "ctranslate2-float32"

    def __init__(
        self, model: Model, tokenizer: PreTrainedTokenizerFast, *, inter_threads: int = 1, intra_threads: int = 1
    ) -> None:
        self.translator = ctranslate2_translator(
            model, tokenizer, inter_threads=inter_threads, intra_threads=intra_threads
        )
        self.tokens = [str(tokenizer.convert_ids_to_tokens(number)) for number in range(len(tokenizer))]
        self.ids = {token: number for number, token in enumerate(self.tokens)}
        self.suppressed = [[tokenizer.bos_token], [tokenizer.pad_token]]

    def submit(self, sources: list[list[int]], search: BeamSearch) -> list[Any]:
        """Queue one batch; waits while the queue is full."""
        return list(
            self.translator.translate_batch(
                [[self.tokens[number] for number in source] for source in sources],
                beam_size=search.beam,
                # Exactly 0 would turn on another rule for when to stop (as soon as the best beam is finished).
                length_penalty=search.length_penalty or 1e-9,
                min_decoding_length=1,
                max_decoding_length=search.max_length,
                max_input_length=0,  # sources are cut before, so that both engines see the same
                suppress_sequences=self.suppressed,
                asynchronous=True,
            )
        )

    def collect(self, handle: Any) -> list[int]:
        """Wait for a sentence's result."""
        return [self.ids[token] for token in handle.result().hypotheses[0]]


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
