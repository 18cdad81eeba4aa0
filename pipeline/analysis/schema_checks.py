"""The JSON schema of what verdict.json says of the first study's claims, and of the checks that they rest on."""

from __future__ import annotations

from typing import Any

from pipeline.analysis.schema_forms import (
    MATCH,
    NATS,
    OPTIONAL_NUMBER,
    PROBABILITY,
    described,
    exactly,
    list_of,
    nullable,
)

_TEXT = {"type": "string", "minLength": 1}
_NUMBER = {"type": "number"}
_SEEDS = {"type": "integer", "minimum": 1}
_SIZES = {"type": "array", "items": {"type": "string"}, "minItems": 2}
_INTERVAL = {
    "low": described("95 % t interval over seeds and sentences; null with one seed", **OPTIONAL_NUMBER),
    "high": OPTIONAL_NUMBER,
    "p_value": described("two-sided, not adjusted", **PROBABILITY),
}

_CLAIM = {
    "claim": _TEXT,
    "answer": {"enum": ["yes", "no", "in part", "not told apart", "not known"]},
    "evidence": described("the numbers that the answer rests on", **_TEXT),
    "because": described("why, where it does not hold and that is known", type=["string", "null"]),
}

_END = {
    "size": {"type": "string"},
    "phase": described("the branch: what it was matched in, and -early where it stopped for recovery", type="string"),
    "seeds": _SEEDS,
    "step": _NUMBER,
    "train_seconds": _NUMBER,
    "train_flops": _NUMBER,
    "valid_loss": described("of training before any finetuning, nats a scored token, mean over seeds", **_NUMBER),
    "valid_loss_sd": described("over seeds; null with one", **OPTIONAL_NUMBER),
}

_LOSS_BY_SIZE = exactly(
    {
        "wide": described(
            "the most sizes that differ in width alone, narrowest first; null without two",
            **nullable(exactly({"num_layers": {"type": "integer"}, "sizes": _SIZES})),
        ),
        "deep": described(
            "the most sizes that differ in depth alone, shallowest first; null without two",
            **nullable(exactly({"d_model": {"type": "integer"}, "sizes": _SIZES})),
        ),
        "ends": described("the ends of cooldowns, means over seeds", **list_of(_END)),
    }
)

_TIME_TO_LOSS = {
    "loss": described("validation loss of the trunk, nats a scored token", **_NUMBER),
    "size": {"type": "string"},
    "seeds": _SEEDS,
    "reached": described("seeds whose trunk reaches it", type="integer", minimum=0),
    "censored": described("some seed's trunk ends before: the means are less than what it takes", type="boolean"),
    "steps": described("mean over seeds, log-linear between points", **_NUMBER),
    "seconds": _NUMBER,
    "flops": _NUMBER,
}

_BRANCH_POINT = {
    "size": {"type": "string"},
    "branch": {"type": "string"},
    "seeds": _SEEDS,
    "pretrain_valid_loss": described("of the encoder that was finetuned, nats a masked token", **_NUMBER),
    "finetune_steps": described("mean over seeds; null where not told", **OPTIONAL_NUMBER),
    "quality": described("after finetuning, test set, mean over seeds", **_NUMBER),
    "test_loss": described("after finetuning, nats a sentence, mean over seeds", **_NUMBER),
    "quality_sd": described("over seeds; null with one", **OPTIONAL_NUMBER),
    "test_loss_sd": OPTIONAL_NUMBER,
}

_COMMON_LOSS = {
    "loss": described("the middle of what these sizes' branches span together", **_NUMBER),
    "low": _NUMBER,
    "high": _NUMBER,
    "sizes": described(
        "interpolated at that loss",
        **(
            list_of(
                {
                    "size": {"type": "string"},
                    "quality": _NUMBER,
                    "test_loss": _NUMBER,
                    "between": described(
                        "pretraining losses of its two branches next to that loss, between which it is interpolated",
                        type="array",
                        items=_NUMBER,
                        minItems=2,
                        maxItems=2,
                    ),
                    "finetune_steps": described(
                        "of those two branches, least and most; null where not told",
                        **nullable({"type": "array", "items": _NUMBER, "minItems": 2, "maxItems": 2}),
                    ),
                }
            )
            | {"minItems": 2}
        ),
    ),
    "quality_spread": described("between the best and the worst size", type="number", minimum=0),
    "test_loss_spread": {"type": "number", "minimum": 0},
    "quality_seeds": described(
        "what seeds alone explain of it, Tukey's 95 % range; null with one seed", **OPTIONAL_NUMBER
    ),
    "test_loss_seeds": OPTIONAL_NUMBER,
}

_SIDE = exactly({"config_id": {"type": "string"}, "quality": _NUMBER, "test_loss": _NUMBER})
_BROUGHT = exactly({"difference": _NUMBER, **_INTERVAL, "seeds": _SEEDS})
_PRETRAINING = {
    "match": MATCH,
    "size": {"type": "string"},
    "pretrained": _SIDE,
    "scratch": _SIDE,
    "quality": described("pretrained - scratch: positive favours pretraining", **_BROUGHT),
    "loss": described("test loss in nats a sentence, scratch - pretrained: positive favours pretraining", **_BROUGHT),
}

_EARLY_AND_LATE = {
    "match": MATCH,
    "size": {"type": "string"},
    "kind": described("the methods of both recipes", type="string"),
    "bits": {"type": ["integer", "null"]},
    "sparsity": OPTIONAL_NUMBER,
    "early": described("the recipe of the early branch", type="string"),
    "late": described("the recipe of the whole one", type="string"),
    "seeds": _SEEDS,
    "tokens_per_param_early": _NUMBER,
    "tokens_per_param_late": _NUMBER,
    "added_early": described(f"test loss above the very model that was compressed, in {NATS}", **_NUMBER),
    "added_late": _NUMBER,
    "difference": described("late - early: positive where the longer trained loses more", **_NUMBER),
    **_INTERVAL,
}

CHECKS: dict[str, Any] = {
    "first_study": described("what of the claims of Li et al. 2020 holds here", **list_of(_CLAIM)),
    "loss_by_size": described("where sizes end in training, by width and by depth", **_LOSS_BY_SIZE),
    "time_to_loss": described("what each size's trunk takes to a loss", **list_of(_TIME_TO_LOSS)),
    "equal_pretraining_loss": described(
        "sizes finetuned from an equal pretraining loss; null where nothing is finetuned",
        **nullable(exactly({"points": list_of(_BRANCH_POINT), "common": list_of(_COMMON_LOSS)})),
    ),
    "what_pretraining_brought": described(
        "finetuned with and without pretraining; null where nothing is finetuned", **nullable(list_of(_PRETRAINING))
    ),
    "early_and_late": described(
        "one size's branches, compressed alike and trained no further", **list_of(_EARLY_AND_LATE)
    ),
}
"""{key of verdict.json: its schema}."""
