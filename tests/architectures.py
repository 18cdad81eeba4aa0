"""Tiny models of every architecture that an import makes, all parameters random."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig
from transformers.models.m2m_100 import M2M100Config
from transformers.models.marian import MarianConfig

from pipeline.models.architectures import recognise, save_plain
from pipeline.models.pruned import model_of

ARCHITECTURES = ("tied", "untied", "decoder-tied", "post-norm", "post-norm-separate", "post-norm-learned")


def config_of(kind: str, *, vocab_size: int, **changes: Any) -> PretrainedConfig:
    """Return the configuration of an architecture as an import writes it: width 32, 2+2 layers, 2 heads, FFN 64."""
    sides = {f"{side}_{part}": n for side in ("encoder", "decoder") for part, n in SHAPE.items()}
    dropouts = dict.fromkeys(("dropout", "attention_dropout", "activation_dropout"), 0.0)
    common: dict[str, Any] = {
        "vocab_size": vocab_size, "d_model": 32, "max_position_embeddings": 128, "activation_function": "relu",
        "scale_embedding": True, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2,
        "encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0, "attn_implementation": "eager", **sides, **dropouts,
    }  # fmt: skip
    common |= changes
    if kind.startswith("post-norm"):
        common = {"decoder_vocab_size": vocab_size, "sinusoids": "fairseq"} | common
        return MarianConfig(share_encoder_decoder_embeddings=kind != "post-norm-separate", **common)
    return M2M100Config(tie_word_embeddings=kind == "tied", **common)


SHAPE = {"layers": 2, "attention_heads": 2, "ffn_dim": 64}


def tiny_model(kind: str, *, vocab_size: int, **changes: Any) -> Any:
    """Return a model of one of ARCHITECTURES, always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(len(kind))
        model: Any = model_of(config_of(kind, vocab_size=vocab_size, **changes))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim == 2 and "embed_positions" not in name:
                    parameter.normal_(std=0.1)
            if kind.endswith("tied") and kind != "tied":
                decoder = torch.nn.Parameter(torch.randn(vocab_size, 32) * 0.1)
                model.model.decoder.embed_tokens.weight = decoder
                if kind == "decoder-tied":
                    model.lm_head.weight = decoder
            if kind == "post-norm-learned":
                for side in (model.model.encoder, model.model.decoder):
                    side.embed_positions.weight.normal_(std=0.1)
    recognise(model, Path("in memory"))
    return model.eval()


def write_as_import(model: Any, directory: Path) -> Path:
    """Write a model's weights and configuration as an import does: without what is only known once it was loaded here."""
    save_plain(model, directory)
    path = directory / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for name in ("embedding_ties", "sinusoids"):
        config.pop(name, None)
    path.write_text(json.dumps(config), encoding="utf-8")
    return directory
