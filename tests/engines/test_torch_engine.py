"""Our decoder as an engine: models of every kind that it must take, and the ones it refuses."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BartConfig, BartForConditionalGeneration, MarianConfig, MarianMTModel

from pipeline.compression.activation_rounding import range_of, round_inputs
from pipeline.compression.methods.heads import keep_heads
from pipeline.compression.quanto_files import freeze, linear_layers, quantize_layers
from pipeline.engines.registry import start_engine
from pipeline.engines.search import BeamSearch, EngineRefusal
from pipeline.evaluation.decoding import translate
from pipeline.models.pruned import model_of
from pipeline.models.seq2seq import BOS, EOS, PAD
from pipeline.size import SizeSpec


def as_trained(model: Any) -> Any:
    return copy.deepcopy(model)


def with_rounded_inputs(model: Any) -> Any:
    model = copy.deepcopy(model)
    names = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    round_inputs(model, {name: range_of(-4.0, 4.0, 5) for name in names})
    return model


def of_quanto(model: Any) -> Any:
    model = copy.deepcopy(model)
    quantize_layers(model, linear_layers(model), 8)
    freeze(model)
    return model


def with_one_head(model: Any) -> Any:
    return keep_heads(model, SizeSpec(d_model=64, num_layers=2, num_heads=1, head_dim=32))


def untied(model: Any) -> Any:
    config = copy.deepcopy(model.config)
    config.tie_word_embeddings = False
    result = model_of(config)
    result.load_state_dict(model.state_dict())
    with torch.no_grad():
        result.lm_head.weight.mul_(1.3)
    assert result.lm_head.weight is not result.model.shared.weight
    return result.eval()


@pytest.mark.parametrize("changed", [as_trained, with_rounded_inputs, of_quanto, with_one_head, untied])
@pytest.mark.parametrize("beam", [1, 4])
def test_every_kind_of_model(trained, changed: Any, beam: int) -> None:
    model = changed(trained.model)
    options = {"beam": beam, "max_length": 30, "batch_tokens": 500}
    ours, theirs = (
        translate(model, trained.tokenizer, trained.lines[:100], engine=engine, **options)
        for engine in ("torch", "transformers")
    )
    assert np.mean([a == b for a, b in zip(ours, theirs, strict=True)]) >= 0.99
    assert len(set(ours)) > 50
    if changed is with_rounded_inputs:  # coarse enough that an engine which ignores the rounding is found out
        plain = translate(trained.model, trained.tokenizer, trained.lines[:100], engine="torch", **options)
        assert np.mean([a == b for a, b in zip(ours, plain, strict=True)]) < 0.9


def marian(*, shared: bool, seed: int, target_words: int = 50) -> MarianMTModel:
    """A post-norm model whose weights are random, but large enough for its outputs to depend on everything."""
    torch.manual_seed(seed)
    config = MarianConfig(
        vocab_size=50,
        decoder_vocab_size=target_words,
        share_encoder_decoder_embeddings=shared,
        tie_word_embeddings=shared,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=4,
        encoder_ffn_dim=40,
        decoder_ffn_dim=48,
        max_position_embeddings=64,
        activation_function="relu",
        scale_embedding=True,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
        decoder_start_token_id=EOS,
        forced_eos_token_id=None,
        attn_implementation="eager",
    )
    model = MarianMTModel(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2 and "positions" not in name:
                parameter.normal_(std=0.15 if "shared" in name or "embed" in name else 1.0)
        model.final_logits_bias.normal_(std=0.5)
    return model.eval()


class Tokens:
    """As much of a tokenizer as an engine asks for."""

    pad_token_id, bos_token_id, eos_token_id = PAD, BOS, EOS


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("beam", [1, 4])
def test_a_post_norm_model(shared: bool, beam: int) -> None:
    model = marian(shared=shared, seed=beam)
    generator = np.random.default_rng(0)
    sources = [[*generator.integers(4, 50, size=length).tolist(), EOS] for length in (1, 3, 9, 4, 4, 12, 2, 7)]
    search = BeamSearch(beam=beam, length_penalty=1.0, max_length=24)
    ours, theirs = (
        [engine.collect(handle) for handle in engine.submit(sources, search)]
        for engine in (start_engine(name, model, Tokens()) for name in ("torch", "transformers"))
    )
    assert ours == theirs
    assert len({tuple(ids) for ids in ours}) > 1


def test_separate_vocabularies_of_unequal_sizes() -> None:
    """transformers' beam search takes the source's size for both, so that greedy search is what remains to compare."""
    model = marian(shared=False, seed=3, target_words=37)
    search = BeamSearch(beam=1, length_penalty=1.0, max_length=20)
    sources = [[40, 45, 49, EOS], [7, 8, EOS]]
    ours, theirs = (
        [engine.collect(handle) for handle in engine.submit(sources, search)]
        for engine in (start_engine(name, model, Tokens()) for name in ("torch", "transformers"))
    )
    assert ours == theirs
    wide = start_engine("torch", model, Tokens()).submit(sources, BeamSearch(beam=4, length_penalty=1.0, max_length=20))
    assert max(max(ids) for ids in wide) < 37


def test_the_models_mode_is_left_as_it_was(trained) -> None:
    model = copy.deepcopy(trained.model).train()
    translate(model, trained.tokenizer, trained.lines[:3], engine="torch")
    assert model.training


def test_an_unknown_architecture_is_refused(trained) -> None:
    config = BartConfig(vocab_size=50, d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=16)
    config.decoder_ffn_dim, config.encoder_attention_heads, config.decoder_attention_heads = 16, 2, 2
    with pytest.raises(EngineRefusal, match="not bart"):
        start_engine("torch", BartForConditionalGeneration(config), trained.tokenizer)
