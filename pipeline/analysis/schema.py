"""The JSON schema of verdict.json, and the check against it."""

from __future__ import annotations

from typing import Any

import jsonschema

from pipeline.analysis.schema_checks import CHECKS
from pipeline.analysis.schema_forms import MATCH, NATS, OPTIONAL_NUMBER, PROBABILITY, described, exactly
from pipeline.errors import StudyError

_MATCHED = {"enum": ["device_seconds", "train_flops"]}
_WINNER = {"enum": ["heavy", "light", "tie", "infeasible"]}

_SHARED_SIDE = {
    "config_id": described("size/recipe", type="string"),
    "run_ids": described("its runs, in the order of seeds", type="array", items={"type": "string"}, minItems=1),
    "valid_loss": described(f"{NATS}, mean over seeds; what it was chosen by", type="number"),
    "test_loss": described(f"{NATS}, without smoothing, mean over seeds", type="number"),
    "compression_ratio": described(
        "dense fp32 bytes of the architecture / bytes written", type="number", exclusiveMinimum=0
    ),
    "params_total": {"type": "integer", "minimum": 1},
    "size_bytes": described("the largest file of its seeds", type="integer", minimum=1),
}

_CONFIGURATION = exactly(_SHARED_SIDE | {"quality": described("test set, mean over seeds", type="number")})

_DEPLOYED = exactly(
    _SHARED_SIDE
    | {
        "quality": described(
            "of the written weights in fp32 arithmetic, test set, mean over seeds; null where not measured, as of what was "
            "not translated",
            **OPTIONAL_NUMBER,
        ),
        "bits": described("of the written weights; below 8 they run as int8; null: fp32", type=["integer", "null"]),
        "engine": described("what it is deployed in", type="string"),
        "engine_quality": described("of that engine's own output, test set, mean over seeds", type="number"),
        "latency_ms_p50": described(
            "milliseconds a batch, median of the first seed", type="number", exclusiveMinimum=0
        ),
    }
)

_OUTCOME = {
    "low": described(
        "95 % t interval over seeds and sentences; null where one side does not fit or one seed was run",
        **OPTIONAL_NUMBER,
    ),
    "high": OPTIONAL_NUMBER,
    "p_value": described("two-sided, Holm-adjusted over the limits of this list", **PROBABILITY),
    "p_value_raw": described("before Holm", **PROBABILITY),
    "seeds": described("seeds that both sides have", type=["integer", "null"]),
    "winner": _WINNER,
    "supports_train_large": described("heavy won and has more parameters than light", type="boolean"),
}


def _limit(limit: dict[str, Any], unit: str, side: dict[str, Any], *, quality: str, chosen_of: str) -> dict[str, Any]:
    return exactly(
        {
            "limit": limit,
            "unit": {"const": unit},
            "heavy": {"anyOf": [side, {"type": "null"}]},
            "light": {"anyOf": [side, {"type": "null"}]},
            "difference": described(f"{quality}, heavy - light: positive favours heavy", **OPTIONAL_NUMBER),
            **_OUTCOME,
            "by_loss": exactly(
                {
                    "difference": described(
                        f"test loss in {NATS}; light - heavy: positive favours heavy", **OPTIONAL_NUMBER
                    ),
                    **_OUTCOME,
                }
            ),
            "by_size": described(
                f"the best fitting {chosen_of} of each size", type="object", additionalProperties=side
            ),
        }
    )


_LIMIT = _limit(
    described("bytes of the file, for every seed", type="integer", minimum=1),
    "bytes",
    _CONFIGURATION,
    quality="quality",
    chosen_of="configuration",
)

_LATENCY_LIMIT = _limit(
    described("milliseconds a batch; the tolerance comes on top", type="number", exclusiveMinimum=0),
    "ms",
    _DEPLOYED,
    quality="engine_quality",
    chosen_of="deployed configuration",
)

_STUDENT_SIDE = exactly(
    {
        "config_id": described("size/recipe; of a student size-teaching/recipe", type="string"),
        "run_ids": described("its runs, in the order of seeds", type="array", items={"type": "string"}, minItems=1),
        "params_total": {"type": "integer", "minimum": 1},
        "size_bytes": described("the largest file of its seeds", type="integer", minimum=1),
        "valid_loss": described(f"{NATS}, mean over seeds", type="number"),
        "test_loss": described(f"{NATS}, mean over seeds", type="number"),
        "quality": described("test set, mean over seeds; null where a seed was not translated", **OPTIONAL_NUMBER),
    }
)

_STUDENT_DIFFERENCE = {
    "anyOf": [
        exactly(
            {
                "difference": described("mean over common seeds; positive favours the student", type="number"),
                "low": described("95 % t interval over seeds and sentences; null without it", **OPTIONAL_NUMBER),
                "high": OPTIONAL_NUMBER,
                "seeds": described("seeds that both have", type="integer", minimum=1),
            }
        ),
        {"type": "null"},
    ]
}

_STUDENT = exactly(
    {
        "student": _STUDENT_SIDE,
        "rival": described(
            "of the eligible configurations that are no students and no larger files, the best by validation loss",
            anyOf=[_STUDENT_SIDE, {"type": "null"}],
        ),
        "loss": described(f"test loss, rival - student, {NATS}", **_STUDENT_DIFFERENCE),
        "quality": described("student - rival, where both were translated", **_STUDENT_DIFFERENCE),
        "winner": described(
            "by loss: an interval without 0 and the least difference that wins",
            enum=["student", "rival", "tie", "infeasible"],
        ),
        "totals": described(
            "what the student cost, by how the teacher's own training is counted",
            **exactly(
                {
                    accounting: exactly(
                        {
                            "seconds": {"type": "number"},
                            "flops": {"type": "number"},
                            "seconds_by_budget": described("over the budget in seconds", type="number"),
                            "flops_by_rival": described("over the mean FLOPs of the rival's runs", **OPTIONAL_NUMBER),
                        }
                    )
                    for accounting in ("excluded", "amortised", "included")
                }
            ),
        ),
        "holds": described("the accountings under which the winner has won", type="array", items={"type": "string"}),
    }
)

_FRONT = exactly(
    {
        "axis": described(
            "unmasked: without masked models, whose masks an engine may not skip",
            enum=["size_bytes", "infer_flops_per_token", "unmasked_flops_per_token"],
        ),
        "configurations": described("how many were eligible", type="integer", minimum=0),
        "members": described(
            "on the front of validation loss against the axis, cheapest first",
            type="array",
            items=exactly(
                {
                    "config_id": {"type": "string"},
                    "size": {"type": "string"},
                    "recipe": {"type": "string"},
                    "kind": described("the recipe's methods, joined by +; none: fp32", type="string"),
                    "size_bytes": {"type": "integer", "minimum": 1},
                    "infer_flops_per_token": described("masked weights count as skipped", type="number"),
                    "valid_loss": described(f"{NATS}, mean over seeds; what it was chosen by", type="number"),
                    "test_loss": described(f"{NATS}, mean over seeds", type="number"),
                    "test_loss_sd": described("over seeds; null with one", **OPTIONAL_NUMBER),
                    "seeds": {"type": "integer", "minimum": 1},
                }
            ),
        ),
        "by_kind": described(
            "places on the front, most first", type="object", additionalProperties={"type": "integer", "minimum": 1}
        ),
    }
)

_FROM_SCRATCH = exactly(
    {
        "match": MATCH,
        "pruned": described("config_id: the larger size / the recipe", type="string"),
        "kind": {"type": "string"},
        "scratch": described("config_id: the size whose shape is left / fp32", type="string"),
        "difference": described("test loss in nats, scratch - pruned: positive favours pruning", type="number"),
        "low": described("95 % t interval over seeds and sentences; null with one seed", **OPTIONAL_NUMBER),
        "high": OPTIONAL_NUMBER,
        "p_value": described("two-sided, not adjusted", **PROBABILITY),
        "seeds": described("that both have", type="integer", minimum=1),
    }
)

_CORRELATION = exactly(
    {
        "cause": {"enum": ["d_model", "num_layers", "tokens_per_param"]},
        "measure": {"enum": ["weight_error", "added"]},
        "bits": {"type": "integer"},
        "tau": described(
            "Kendall's, over pairs that differ in the cause alone", type=["number", "null"], minimum=-1, maximum=1
        ),
        "pairs": {"type": "integer", "minimum": 0},
    }
)

SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "verdict",
    "description": "Heavily against lightly compressed models at limits of bytes and of latency; positive differences favour heavy.",
    **exactly(
        {
            "study": {"type": "string"},
            "task": {"enum": ["translation", "classification"]},
            "claim": described("one sentence, made from the counts below", type="string", minLength=1),
            "latency_claim": described(
                "one sentence, made from the counts of `latency`, and which settings have no ladder; null where nothing "
                "was timed",
                type=["string", "null"],
            ),
            "quality_name": {"type": "string"},
            "thresholds": exactly(
                {
                    "quality": described("least difference that wins, in units of quality", type="number"),
                    "loss_percent": described(
                        "least difference that wins, in percent of light's test loss", type="number"
                    ),
                    "p_value": described("a winner's adjusted p is below this", type="number"),
                    "latency_tolerance": described(
                        "a latency limit admits what is slower by this fraction: models of one shape in one engine do "
                        "nearly the same work",
                        type="number",
                    ),
                }
            ),
            "gflops_per_second": described(
                "training speed by size", type="object", additionalProperties={"type": "number"}
            ),
            "matches": {
                "type": "array",
                "minItems": 1,
                "items": exactly(
                    {
                        "matched": _MATCHED,
                        "match": MATCH,
                        "budget": {"type": "string"},
                        "limits": described(
                            "light: fp32, 16-bit or int8; heavy: at most 6 bits or half pruned, and at least 5x",
                            type="array",
                            items=_LIMIT,
                        ),
                        "limits_first_study": described(
                            "light: at most 2x; heavy: at least 4x", type="array", items=_LIMIT
                        ),
                    }
                ),
            },
            "latency": described(
                "one ladder a match and setting, where an int8 model of a size was timed, the smallest batch first; the "
                "classes are those of `limits`",
                type="array",
                items=exactly(
                    {
                        "matched": _MATCHED,
                        "match": MATCH,
                        "budget": {"type": "string"},
                        "threads": {"type": "integer", "minimum": 1},
                        "batch": described("sentences", type="integer", minimum=1),
                        "configurations": described("how many were on offer", type="integer", minimum=0),
                        "limits": {"type": "array", "minItems": 1, "items": _LATENCY_LIMIT},
                    }
                ),
            ),
            "students_claim": described("one sentence from the rows below; null without any", type=["string", "null"]),
            "fronts": described("under the primary match, one an axis", type="array", items=_FRONT),
            "from_scratch": described(
                "models pruned to the shape of another size of the grid, beside that size",
                type="array",
                items=_FROM_SCRATCH,
            ),
            "why": described("what rounding to nearest a row goes with", type="array", items=_CORRELATION),
            **CHECKS,
            "students": described(
                "distilled students against the best other models of at most their bytes, at equal device seconds",
                type="array",
                items=_STUDENT,
            ),
        }
    ),
}


def check_verdict(verdict: dict[str, Any]) -> None:
    """Raise StudyError when a verdict does not have the form of `SCHEMA`."""
    try:
        jsonschema.validate(verdict, SCHEMA, cls=jsonschema.Draft202012Validator)
    except jsonschema.ValidationError as error:
        raise StudyError(
            f"verdict.json: {error.json_path}: {error.message.splitlines()[0]}; this is a fault of the report stage"
        ) from None
