"""One size of model, and the key that names it."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from pipeline.section import Section


class SizeSpec(Section):
    """One size of model: `num_layers` layers in the encoder and as many in the decoder."""

    d_model: int = Field(gt=0)
    num_layers: int = Field(gt=0)
    num_heads: int = Field(default=0, ge=0)  # 0: one head for every 32 columns
    ffn_dim: int = Field(default=0, ge=0)  # 0: 4 x d_model
    head_dim: int = Field(
        default=0, ge=0
    )  # columns a head; 0: d_model / num_heads. Other values come from pruning heads
    seeds: int = Field(default=1, gt=0)  # how many seeds, counted from 0
    dropout: float | None = Field(default=None, ge=0, lt=1)  # instead of training.dropout

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
        """``w64x2``: width and layers a side; ``h`` heads, ``d`` columns a head, ``f`` FFN width where not the default."""
        key = f"w{self.d_model}x{self.num_layers}"
        if self.num_heads != max(1, self.d_model // 32):
            key += f"h{self.num_heads}"
        if not self.is_standard:
            key += f"d{self.head_dim}"
        if self.ffn_dim != 4 * self.d_model:
            key += f"f{self.ffn_dim}"
        return key
