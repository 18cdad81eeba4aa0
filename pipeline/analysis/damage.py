"""How much loss compression adds, paired by seed: to the same size's fp32 model, or to the very model that was compressed."""

from __future__ import annotations

import pandas as pd


def is_dense(frame: pd.DataFrame) -> pd.Series:
    """Tell which rows are fp32 models trained to the whole budget: no recipe, no teacher."""
    return (frame["recipe"] == "fp32") & frame["teaching"].isna()


def added_to_dense(frame: pd.DataFrame) -> pd.Series:
    """Return each row's test loss less that of the fp32 model of its size, seed and match, in nats; null where either is.

    Students are null: the fp32 model of their size was trained otherwise.
    """
    names = ["match", "size", "seed"]
    dense = frame[is_dense(frame)].set_index(names)["test_loss"]
    base = dense.reindex(pd.MultiIndex.from_frame(frame[names])).to_numpy()
    return (frame["test_loss"] - base).where(frame["teaching"].isna())


def added_to_parent(frame: pd.DataFrame) -> pd.Series:
    """Return each row's test loss less that of its parent, in nats; null where the parent was not measured.

    The fp32 models of the early branch are no rows of their own: their losses are those of recipes without steps, which
    have the same parent.
    """
    losses = frame.set_index("run_id")["test_loss"]
    untouched = frame[(frame["kind"] == "none") & frame["parent_id"].notna()].drop_duplicates("parent_id")
    missing = untouched.set_index("parent_id")["test_loss"]
    parents = frame["parent_id"].map(losses).fillna(frame["parent_id"].map(missing))
    return frame["test_loss"] - parents.astype("float64")


def one_grid(frame: pd.DataFrame, *, granularity: str = "row") -> pd.Series:
    """Tell which rows have all matrices, the embedding too, in the same bits with this granularity, and fp32 activations."""
    same = frame["embedding_bits"] == frame["bits"]  # null: in fp32
    plain = frame["activation_bits"].isna() & (frame["granularity"].isna() | (frame["granularity"] == granularity))
    return frame["bits"].notna() & same.fillna(False).astype(bool) & plain


def whole_budget(frame: pd.DataFrame) -> pd.Series:
    """Tell which rows had all of their size's budget: their parent is a row itself, or they trained on from the early branch."""
    trained = frame["kind"].str.split("+").map(lambda parts: not {"qat", "finetune", "distill"}.isdisjoint(parts))
    return frame["parent_id"].isin(set(frame["run_id"])) | trained.astype(bool)
