"""One size of model, and the key that names it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from pipeline.section import Section

Architecture = Literal["encoder-decoder", "encoder"]

SHAPE = ("d_model", "num_layers", "num_heads", "ffn_dim")
"""What every record of a size says; the other fields stand beside it where they are not what they are by default."""

_FURTHER = {"architecture": "encoder-decoder", "positions": 0, "num_labels": 0}


class SizeSpec(Section):
    """One size of model: `num_layers` layers in the encoder, and as many in the decoder where there is one."""

    d_model: int = Field(gt=0)
    num_layers: int = Field(gt=0)
    num_heads: int = Field(default=0, ge=0)  # 0: one head for every 32 columns
    ffn_dim: int = Field(default=0, ge=0)  # 0: 4 x d_model
    head_dim: int = Field(
        default=0, ge=0
    )  # columns a head; 0: d_model / num_heads. Other values come from pruning heads
    seeds: int = Field(default=1, gt=0)  # how many seeds, counted from 0
    dropout: float | None = Field(default=None, ge=0, lt=1)  # instead of training.dropout
    architecture: Architecture = "encoder-decoder"  # a study's task sets it
    positions: int = Field(default=0, ge=0)  # of an encoder, which learns a row for each; the corpus sets it
    num_labels: int = Field(default=0, ge=0)  # of an encoder's classification head; 0: it predicts masked tokens

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("d_model"), int):
            data = dict(data)
            data["num_heads"] = data.get("num_heads") or max(1, data["d_model"] // 32)
            data["ffn_dim"] = data.get("ffn_dim") or 4 * data["d_model"]
            if not data.get("head_dim") and not data["d_model"] % data["num_heads"]:
                data["head_dim"] = data["d_model"] // data["num_heads"]
        return data

    @model_validator(mode="after")
    def _heads_divide(self) -> SizeSpec:
        if not self.head_dim:
            raise ValueError(f"num_heads {self.num_heads} does not divide d_model {self.d_model}; choose a divisor")
        if self.d_model % 2:
            raise ValueError(f"d_model {self.d_model} is odd; sinusoidal positions need an even width")
        if (self.num_labels or self.positions) and self.architecture != "encoder":
            raise ValueError("num_labels and positions are an encoder's; an encoder-decoder has neither")
        return self

    @property
    def attention_dim(self) -> int:
        """Columns of all heads together; `d_model` unless heads were pruned."""
        return self.num_heads * self.head_dim

    @property
    def is_standard(self) -> bool:
        """Whether a plain transformers configuration can say this shape: heads fill the width."""
        return self.attention_dim == self.d_model

    @property
    def key(self) -> str:
        """``w64x2``: width and layers a side; ``h`` heads, ``d`` columns a head, ``f`` FFN width where not the default, ``c`` classes."""
        key = f"w{self.d_model}x{self.num_layers}"
        if self.num_heads != max(1, self.d_model // 32):
            key += f"h{self.num_heads}"
        if not self.is_standard:
            key += f"d{self.head_dim}"
        if self.ffn_dim != 4 * self.d_model:
            key += f"f{self.ffn_dim}"
        if self.num_labels:
            key += f"c{self.num_labels}"
        return key

    def changed(self, **fields: Any) -> SizeSpec:
        """Return this size with other `fields`, checked."""
        return SizeSpec(**(self.model_dump() | fields))

    def record(self) -> dict[str, Any]:
        """Return the shape as an entry of params.yaml says it: `SHAPE`, and what else is not as it is by default."""
        fields = {name: getattr(self, name) for name in SHAPE}
        return fields | {name: getattr(self, name) for name, usual in _FURTHER.items() if getattr(self, name) != usual}

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> SizeSpec:
        """Return the size that an entry, or run.json's `size`, describes; what else it holds is left aside."""
        names = (*SHAPE, "head_dim", *_FURTHER)
        return cls(**{name: record[name] for name in names if name in record})
