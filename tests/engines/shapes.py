"""Models of every shape that an engine may be given, made of the trained one's weights where its shape allows."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from transformers import MarianConfig, MarianMTModel, PreTrainedTokenizerFast
from transformers.models.m2m_100 import M2M100ForConditionalGeneration

from pipeline.compression.registry import METHODS
from pipeline.models.seq2seq import BOS, EOS, PAD, UNK
from pipeline.recipes import Ffn, Heads, Layers, Width
from tests.candidates import NO_BENCH, untouched
from tests.trained import FIRST_WORD, Trained, word_tokenizer

PRUNED = {
    "heads-pruned": Heads(method="heads", fraction=0.5),
    "ffn-pruned": Ffn(method="ffn", fraction=0.5),
    "layers-pruned": Layers(method="layers", fraction=0.5),
    "width-pruned": Width(method="width", fraction=0.5),
}
SHAPES = (
    *("trained", *PRUNED, "uneven-layers", "uneven-heads", "gelu", "untied", "unscaled", "high-pad"),
    *("marian", "marian-two-vocabularies"),
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model with its tokenizers; `lines` are sources that it has not seen."""

    model: Any
    tokenizer: PreTrainedTokenizerFast
    target_tokenizer: PreTrainedTokenizerFast
    lines: list[str]


def _with(model: Any, **changes: Any) -> Any:
    """Return a model of a changed configuration with the same weights, those that it has no place for left out."""
    config = copy.deepcopy(model.config)
    config.update(changes)
    made = M2M100ForConditionalGeneration._from_config(config, attn_implementation="eager")
    state = model.state_dict()
    made.load_state_dict({name: state[name] for name in made.state_dict()})
    return made.eval()


def _untied(model: Any) -> Any:
    made = _with(model, tie_word_embeddings=False)
    for module in (made.model.encoder.embed_tokens, made.model.decoder.embed_tokens, made.lm_head):
        noise = 0.1 * module.weight.std() * torch.randn_like(module.weight)
        module.weight = torch.nn.Parameter(module.weight.detach() + noise)
    return made


def _marian(**changes: Any) -> Any:
    config = MarianConfig(
        **{"vocab_size": 64, "d_model": 32, "encoder_layers": 2, "decoder_layers": 1}
        | {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 48}
        | {"max_position_embeddings": 80, "dropout": 0.0, "activation_function": "relu", "scale_embedding": True}
        | {"bos_token_id": BOS, "pad_token_id": PAD, "eos_token_id": EOS, "decoder_start_token_id": EOS}
        | {"attn_implementation": "eager"}
        | changes
    )
    model: Any = MarianMTModel(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embed_positions" not in name:
                # What the source says must outweigh the rest, or every hypothesis is the same.
                deviation = 0.8 if "encoder_attn." in name else 0.3 if parameter.ndim == 2 else 0.1
                parameter.normal_(mean=float("norm.weight" in name), std=deviation)
        model.final_logits_bias.normal_(std=0.3)
    return model.eval()


def case_of(trained: Trained, shape: str) -> Case:
    """Return the model of a name in SHAPES; always the same."""
    model, tokenizer = trained.model, trained.tokenizer
    target = None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        if shape in PRUNED:
            candidate = untouched(model)
            METHODS[PRUNED[shape].method](candidate, PRUNED[shape], NO_BENCH)
            model = candidate.model.eval()
        elif shape == "uneven-layers":
            model = _with(model, encoder_layers=1)
        elif shape == "uneven-heads":
            model = _with(model, decoder_attention_heads=4)
        elif shape == "gelu":
            model = _with(model, activation_function="gelu")
        elif shape == "untied":
            model = _untied(model)
        elif shape == "unscaled":
            model = _with(model, scale_embedding=False)
        elif shape == "high-pad":
            model = _with(model, pad_token_id=UNK)
            tokenizer = word_tokenizer(len(tokenizer) - FIRST_WORD, special=("<s>", "<unk>", "</s>", "<pad>"))
        elif shape == "marian":
            model = _marian()
        elif shape == "marian-two-vocabularies":
            model = _marian(share_encoder_decoder_embeddings=False, tie_word_embeddings=False)
            target = word_tokenizer(len(tokenizer) - FIRST_WORD, letter="z")
    return Case(model=model, tokenizer=tokenizer, target_tokenizer=target or tokenizer, lines=trained.lines)
