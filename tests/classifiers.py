"""Small classifiers and masked language models, and hand-made splits for them: random, always the same."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.corpora.encoder_splits import LabelledSplit, TextSplit
from pipeline.corpora.masking import Masking
from pipeline.corpora.token_array import TokenArray
from pipeline.models.building import build
from pipeline.size import SizeSpec

VOCABULARY = 200
CLASSES = 3


def encoder_size(d_model: int = 32, num_layers: int = 2, *, num_labels: int = CLASSES, **fields: Any) -> SizeSpec:
    """Return the size of an encoder with positions for sequences of 64."""
    return SizeSpec(
        architecture="encoder", d_model=d_model, num_layers=num_layers, positions=64, num_labels=num_labels, **fields
    )


def encoder(size: SizeSpec | None = None, *, vocab_size: int = VOCABULARY, dropout: float = 0.0) -> Any:
    """Return a random encoder whose classes or words are undecided enough for its logits to tell sentences apart."""
    size = size or encoder_size()
    with torch.random.fork_rng(devices=[]):
        model: Any = build(size, vocab_size=vocab_size, dropout=dropout, seed=size.d_model)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("bias") and name != "lm_head.bias":
                    parameter.normal_(std=0.1)
            if size.num_labels:
                _spread(model.eval(), vocab_size)
    return model.eval()


def _spread(model: Any, vocab_size: int) -> None:
    """Make sentences' logits differ."""
    for layer in model.roberta_prelayernorm.encoder.layer:
        layer.attention.self.value.weight.mul_(4)
    model.classifier.out_proj.weight.normal_(std=0.5)
    centre(model, vocab_size)


@torch.no_grad()
def centre(model: Any, vocab_size: int = VOCABULARY) -> Any:
    """Make every class likeliest of some sentences, in place; return the model."""
    probe = torch.randint(5, vocab_size, (64, 16), generator=torch.Generator().manual_seed(0))
    model.classifier.out_proj.bias.sub_(model(input_ids=probe).logits.mean(dim=0))
    return model


def token_array(rows: Iterable[np.ndarray]) -> TokenArray:
    """Return rows of ids as one array."""
    listed = list(rows)
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in listed])]).astype(np.int64)
    return TokenArray(np.concatenate(listed).astype(np.uint16), offsets)


def _rows(count: int, longest: int, vocab_size: int) -> TokenArray:
    rng = np.random.default_rng(0)
    return token_array(rng.integers(5, vocab_size, size=length) for length in rng.integers(1, longest - 1, size=count))


def labelled_split(count: int = 40, *, longest: int = 64, vocab_size: int = VOCABULARY) -> LabelledSplit:
    """Return sentences of 3 to `longest` positions with their <s> and </s>, and random classes."""
    labels = np.random.default_rng(1).integers(0, CLASSES, size=count)
    sentences = _rows(count, longest, vocab_size)
    return LabelledSplit(name="valid", sentences=sentences, labels=labels, classes=CLASSES, directory=Path("unused"))


def text_split(count: int = 40, *, longest: int = 32, vocab_size: int = VOCABULARY) -> TextSplit:
    """Return blocks of 3 to `longest` positions, 15 % of whose tokens are scored."""
    masking = Masking(probability=0.15, vocab_size=vocab_size, seed=1)
    return TextSplit(name="valid", blocks=_rows(count, longest, vocab_size), masking=masking, directory=Path("unused"))
