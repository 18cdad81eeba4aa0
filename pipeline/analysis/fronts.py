"""Which configurations nothing beats: the Pareto fronts along bytes and along inference FLOPs, and who stands on them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pandas as pd

from pipeline.analysis.kinds import MASKING
from pipeline.analysis.pareto import pareto_front
from pipeline.selection import PRIMARY_MATCH, configurations

AXES = {
    "size_bytes": "bytes of the file",
    "infer_flops_per_token": "inference FLOPs a token, masks skipped",
    "unmasked_flops_per_token": "inference FLOPs a token without masked models, as on an engine that skips no mask",
}
"""{column of `described`: what it counts}."""


def described(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the `configurations` of a table that may be compared, with what fronts are told by.

    Adds `kind`, `infer_flops_per_token` (the largest of the seeds), `unmasked_flops_per_token` (the same; null of masked
    models) and `test_loss_sd` over seeds. Students are left out:
    their teacher's training is in no budget.
    """
    grouped = frame[frame["status"] == "ok"].groupby(["match", "config_id"], sort=False)
    facts = pd.DataFrame(
        {
            "kind": grouped["kind"].first(),
            "infer_flops_per_token": grouped["infer_flops_per_token"].max().astype("float64"),
            "test_loss_sd": grouped["test_loss"].std(ddof=1),
        }
    )
    masked = facts["kind"].str.split("+").map(lambda parts: any(part in MASKING for part in parts))
    facts["unmasked_flops_per_token"] = facts["infer_flops_per_token"].where(~masked.astype(bool))
    configs = configurations(frame)
    configs = configs[configs["eligible"] & configs["teaching"].isna() & configs["valid_loss"].notna()]
    return configs.merge(facts.reset_index(), on=["match", "config_id"], how="left").reset_index(drop=True)


def comparable(configs: pd.DataFrame, axis: str) -> pd.DataFrame:
    """Return the configurations that have the `axis` and that it can tell apart: along FLOPs those in fp32 alone.

    Rounding saves no FLOP, so a rounded model could beat the one it was made of by noise and by nothing else.
    """
    return configs[configs[axis].notna() & (configs["bits"].isna() | (axis == "size_bytes"))]


def front(configs: pd.DataFrame, axis: str) -> pd.DataFrame:
    """Return the `comparable` lines of `described` configurations on the front of validation loss against `axis`, cheapest first."""
    configs = comparable(configs, axis)
    on_front = pareto_front(configs[axis].astype("float64"), configs["valid_loss"])
    return configs[on_front].sort_values([axis, "config_id"])


def fronts(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the front of each of `AXES` under the primary match, chosen on validation loss, as JSON data.

    `configurations` counts those on offer, `by_kind` places, most first.
    """
    configs = described(frame)
    primary = configs[configs["match"] == PRIMARY_MATCH]
    result = []
    for axis in AXES:
        here = comparable(primary, axis)
        members = [
            {
                "config_id": line["config_id"],
                "size": line["size"],
                "recipe": line["recipe"],
                "kind": line["kind"],
                "size_bytes": int(line["size_bytes"]),
                "infer_flops_per_token": float(line["infer_flops_per_token"]),
                "valid_loss": float(line["valid_loss"]),
                "test_loss": float(line["test_loss"]),
                "test_loss_sd": None if pd.isna(line["test_loss_sd"]) else float(line["test_loss_sd"]),
                "seeds": int(line["seeds"]),
            }
            for line in front(here, axis).to_dict("records")
        ]
        by_kind = dict(Counter(member["kind"] for member in members).most_common())
        result.append({"axis": axis, "configurations": len(here), "members": members, "by_kind": by_kind})
    return result


def front_sentence(one: dict[str, Any]) -> str:
    """Return who holds a front's places, as one sentence."""
    held = ", ".join(f"{kind.replace('none', 'fp32')} {places}" for kind, places in one["by_kind"].items())
    return f"Of {one['configurations']} configurations {len(one['members'])} are on the front along {AXES[one['axis']]}: {held}."
