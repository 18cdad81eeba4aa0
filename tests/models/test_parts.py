"""Names of parts: every linear layer and every parameter of an architecture is where its description says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pipeline.errors import StudyError
from pipeline.models.parts import layers_named, parts_of
from tests.architectures import ARCHITECTURES, tiny_model
from tests.classifiers import encoder, encoder_size

KINDS = (*ARCHITECTURES, "classifier")


def model_of(kind: str) -> Any:
    return encoder() if kind == "classifier" else tiny_model(kind, vocab_size=40)


@pytest.mark.parametrize("kind", KINDS)
def test_every_axis_that_is_as_long_as_the_stream_is_told_from_those_of_heads(kind: str) -> None:
    """Heads together are as wide as the stream, too: which axis is which, a description alone can say."""
    model = model_of(kind)
    parts = parts_of(model)
    inner = set(parts.inner or ())
    for name, parameter in model.named_parameters():
        axis = parts.stream_axis(name)
        if axis is not None:
            assert parameter.shape[axis] == 32, name
        elif parameter.ndim == 2:
            assert name.removesuffix(".weight") in inner, name
        else:
            owner = model.get_submodule(name.rpartition(".")[0])
            assert isinstance(owner, nn.Linear), name


@pytest.mark.parametrize("kind", KINDS)
def test_each_layer_has_its_queries_and_its_ffn(kind: str) -> None:
    model = model_of(kind)
    parts = parts_of(model)
    attentions, ffns = (2, 2) if kind == "classifier" else (6, 4)
    queries, hidden = (layers_named(model, names) for names in (parts.queries, parts.hidden))
    assert (len(queries), len(hidden)) == (attentions, ffns)
    assert all(model.get_submodule(name).out_features == model.config.hidden_size for name in queries)
    assert all(model.get_submodule(name).out_features > model.config.hidden_size for name in hidden)
    blocks = {parts.block_of(name) for name in (*queries, *hidden)}
    assert len(blocks) == ffns
    assert all(parts.layer.fullmatch(f"{block}rest") for block in blocks)


def test_a_classifiers_head_reads_one_position_and_is_a_block() -> None:
    model = encoder()
    parts = parts_of(model)
    head = {name for name in layers_named(model, parts.source) if "classifier" in name}
    assert not head
    assert {parts.block_of(name) for name in parts.inner or ()} == {"classifier."}
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    assert [name for name in linear if not parts.reads_source(name)] == list(parts.inner or ())


def test_the_streams_columns_in_another_order_compute_the_same() -> None:
    model = encoder(encoder_size(32, 1, ffn_dim=32))
    ids = torch.tensor([[0, 7, 9, 2]])
    expected = model(input_ids=ids).logits
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0))
    parts = parts_of(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            axis = parts.stream_axis(name)
            if axis is not None:
                parameter.copy_(parameter.index_select(axis, order))
    torch.testing.assert_close(model(input_ids=ids).logits, expected)


def test_an_encoder_without_classes_is_refused_in_one_line() -> None:
    with pytest.raises(StudyError, match="classifiers are compressed; finetune it first"):
        parts_of(encoder(encoder_size(num_labels=0)))
