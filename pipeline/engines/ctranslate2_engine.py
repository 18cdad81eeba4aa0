"""CTranslate2: what a translation model is deployed in. Weights in fp32, int16 or int8, on a CPU."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ctranslate2
import torch
from ctranslate2.converters import TransformersConverter
from ctranslate2.specs.attention_spec import MultiHeadAttentionSpec

from pipeline.engines.search import BeamSearch, EngineRefusal
from pipeline.models.pruned import is_heads_pruned

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from pipeline.models.seq2seq import Model


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


def ctranslate2_translator(
    model: Model,
    tokenizer: PreTrainedTokenizerFast,
    *,
    weights: str = "float32",
    inter_threads: int = 1,
    intra_threads: int = 1,
) -> ctranslate2.Translator:
    """Convert a model to a CPU translator that works on `inter_threads` batches at a time, `intra_threads` each.

    `weights` is float32, int16 or int8: what CTranslate2 stores and computes with. EngineRefusal where this processor
    cannot compute so (CTranslate2 would take another type in silence), and where the converter would be silently wrong:
    heads that differ between encoder and decoder (it uses the encoder's for both), a <pad> id other than 1 (it shifts
    the positions), and a vocabulary of another size than the model's.
    """
    if weights not in ctranslate2.get_supported_compute_types("cpu"):
        raise EngineRefusal(
            f"CTranslate2 cannot compute in {weights} on this processor; use engine 'ctranslate2-float32'"
        )
    config = model.config
    if config.encoder_attention_heads != config.decoder_attention_heads:
        raise EngineRefusal(
            f"CTranslate2 cannot run {config.encoder_attention_heads} encoder heads with "
            f"{config.decoder_attention_heads} decoder heads; use engine 'transformers'"
        )
    if config.pad_token_id != 1:
        raise EngineRefusal(f"CTranslate2 needs <pad> to be id 1, not {config.pad_token_id}; use engine 'transformers'")
    if len(tokenizer) != config.vocab_size:
        raise EngineRefusal(
            f"the tokenizer has {len(tokenizer)} tokens but the model {config.vocab_size}; "
            "use the tokenizer saved with the model"
        )
    with tempfile.TemporaryDirectory(prefix="ctranslate2-") as scratch:
        configuration, converted = Path(scratch, "configuration"), Path(scratch, "converted")
        # The converter's M2M100 loader takes its vocabulary from any tokenizer; language tokens matter to it only where
        # the tokenizer has additional special tokens. The start token comes from decoder_start_token_id: no prefix.
        _InMemoryConverter(configuration, model, tokenizer).convert(
            str(converted), quantization=None if weights == "float32" else weights
        )
        return ctranslate2.Translator(
            str(converted),
            device="cpu",
            compute_type=weights,
            inter_threads=inter_threads,
            intra_threads=intra_threads,
        )


class CTranslate2Engine:
    """Beam search in CTranslate2; the products of matrices are of the type that the weights are of."""

    def __init__(
        self,
        model: Model,
        tokenizer: PreTrainedTokenizerFast,
        *,
        weights: str = "float32",
        inter_threads: int = 1,
        intra_threads: int = 1,
    ) -> None:
        self.name = f"ctranslate2-{weights}"
        self.translator = ctranslate2_translator(
            model, tokenizer, weights=weights, inter_threads=inter_threads, intra_threads=intra_threads
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
