"""The JSON schema of verdict.json, and the check against it."""

from __future__ import annotations

from typing import Any

import jsonschema

from pipeline.errors import StudyError


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _described(text: str, **schema: Any) -> dict[str, Any]:
    return {"description": text, **schema}


_OPTIONAL_NUMBER = {"type": ["number", "null"]}
_PROBABILITY = {"type": ["number", "null"], "minimum": 0, "maximum": 1}
_MATCHED = {"enum": ["device_seconds", "train_flops"]}
_MATCH = {"enum": ["seconds", "flops"]}
_WINNER = {"enum": ["heavy", "light", "tie", "infeasible"]}

_SHARED_SIDE = {
    "config_id": _described("size/recipe", type="string"),
    "run_ids": _described("its runs, in the order of seeds", type="array", items={"type": "string"}, minItems=1),
    "valid_loss": _described("nats a token, mean over seeds; what it was chosen by", type="number"),
    "test_loss": _described("nats a reference token, without smoothing, mean over seeds", type="number"),
    "compression_ratio": _described(
        "dense fp32 bytes of the architecture / bytes written", type="number", exclusiveMinimum=0
    ),
    "params_total": {"type": "integer", "minimum": 1},
    "size_bytes": _described("the largest file of its seeds", type="integer", minimum=1),
}

_CONFIGURATION = _object(_SHARED_SIDE | {"quality": _described("test set, mean over seeds", type="number")})

_DEPLOYED = _object(
    _SHARED_SIDE
    | {
        "quality": _described(
            "of the written weights in fp32 arithmetic, by the translate stage; test set, mean over seeds; null where "
            "not translated",
            **_OPTIONAL_NUMBER,
        ),
        "bits": _described("of the written weights; below 8 they run as int8; null: fp32", type=["integer", "null"]),
        "engine": _described("what it is deployed in", type="string"),
        "engine_quality": _described("of that engine's own output, test set, mean over seeds", type="number"),
        "latency_ms_p50": _described(
            "milliseconds a batch, median of the first seed", type="number", exclusiveMinimum=0
        ),
    }
)

_OUTCOME = {
    "low": _described(
        "95 % t interval over seeds and sentences; null where one side does not fit or one seed was run",
        **_OPTIONAL_NUMBER,
    ),
    "high": _OPTIONAL_NUMBER,
    "p_value": _described("two-sided, Holm-adjusted over the limits of this list", **_PROBABILITY),
    "p_value_raw": _described("before Holm", **_PROBABILITY),
    "seeds": _described("seeds that both sides have", type=["integer", "null"]),
    "winner": _WINNER,
    "supports_train_large": _described("heavy won and has more parameters than light", type="boolean"),
}


def _limit(limit: dict[str, Any], unit: str, side: dict[str, Any], *, quality: str, chosen_of: str) -> dict[str, Any]:
    return _object(
        {
            "limit": limit,
            "unit": {"const": unit},
            "heavy": {"anyOf": [side, {"type": "null"}]},
            "light": {"anyOf": [side, {"type": "null"}]},
            "difference": _described(f"{quality}, heavy - light: positive favours heavy", **_OPTIONAL_NUMBER),
            **_OUTCOME,
            "by_loss": _object(
                {
                    "difference": _described(
                        "test loss in nats a token, light - heavy: positive favours heavy", **_OPTIONAL_NUMBER
                    ),
                    **_OUTCOME,
                }
            ),
            "by_size": _described(
                f"the best fitting {chosen_of} of each size", type="object", additionalProperties=side
            ),
        }
    )


_LIMIT = _limit(
    _described("bytes of the file, for every seed", type="integer", minimum=1),
    "bytes",
    _CONFIGURATION,
    quality="quality",
    chosen_of="configuration",
)

_LATENCY_LIMIT = _limit(
    _described("milliseconds a batch; the tolerance comes on top", type="number", exclusiveMinimum=0),
    "ms",
    _DEPLOYED,
    quality="engine_quality",
    chosen_of="deployed configuration",
)

_STUDENT_SIDE = _object(
    {
        "config_id": _described("size/recipe; of a student size-teaching/recipe", type="string"),
        "run_ids": _described("its runs, in the order of seeds", type="array", items={"type": "string"}, minItems=1),
        "params_total": {"type": "integer", "minimum": 1},
        "size_bytes": _described("the largest file of its seeds", type="integer", minimum=1),
        "valid_loss": _described("nats a token, mean over seeds", type="number"),
        "test_loss": _described("nats a reference token, mean over seeds", type="number"),
        "quality": _described("test set, mean over seeds; null where a seed was not translated", **_OPTIONAL_NUMBER),
    }
)

_STUDENT_DIFFERENCE = {
    "anyOf": [
        _object(
            {
                "difference": _described("mean over common seeds; positive favours the student", type="number"),
                "low": _described("95 % t interval over seeds and sentences; null without it", **_OPTIONAL_NUMBER),
                "high": _OPTIONAL_NUMBER,
                "seeds": _described("seeds that both have", type="integer", minimum=1),
            }
        ),
        {"type": "null"},
    ]
}

_STUDENT = _object(
    {
        "student": _STUDENT_SIDE,
        "rival": _described(
            "of the eligible configurations that are no students and no larger files, the best by validation loss",
            anyOf=[_STUDENT_SIDE, {"type": "null"}],
        ),
        "loss": _described("test loss, rival - student, nats a token", **_STUDENT_DIFFERENCE),
        "quality": _described("student - rival, where both were translated", **_STUDENT_DIFFERENCE),
        "winner": _described(
            "by loss: an interval without 0 and the least difference that wins",
            enum=["student", "rival", "tie", "infeasible"],
        ),
        "totals": _described(
            "what the student cost, by how the teacher's own training is counted",
            **_object(
                {
                    accounting: _object(
                        {
                            "seconds": {"type": "number"},
                            "flops": {"type": "number"},
                            "seconds_by_budget": _described("over the budget in seconds", type="number"),
                            "flops_by_rival": _described("over the mean FLOPs of the rival's runs", **_OPTIONAL_NUMBER),
                        }
                    )
                    for accounting in ("excluded", "amortised", "included")
                }
            ),
        ),
        "holds": _described("the accountings under which the winner has won", type="array", items={"type": "string"}),
    }
)

_FRONT = _object(
    {
        "axis": _described(
            "unmasked: without masked models, whose masks an engine may not skip",
            enum=["size_bytes", "infer_flops_per_token", "unmasked_flops_per_token"],
        ),
        "configurations": _described("how many were eligible", type="integer", minimum=0),
        "members": _described(
            "on the front of validation loss against the axis, cheapest first",
            type="array",
            items=_object(
                {
                    "config_id": {"type": "string"},
                    "size": {"type": "string"},
                    "recipe": {"type": "string"},
                    "kind": _described("the recipe's methods, joined by +; none: fp32", type="string"),
                    "size_bytes": {"type": "integer", "minimum": 1},
                    "infer_flops_per_token": _described("masked weights count as skipped", type="number"),
                    "valid_loss": _described("nats a token, mean over seeds; what it was chosen by", type="number"),
                    "test_loss": _described("nats a token, mean over seeds", type="number"),
                    "test_loss_sd": _described("over seeds; null with one", **_OPTIONAL_NUMBER),
                    "seeds": {"type": "integer", "minimum": 1},
                }
            ),
        ),
        "by_kind": _described(
            "places on the front, most first", type="object", additionalProperties={"type": "integer", "minimum": 1}
        ),
    }
)

_FROM_SCRATCH = _object(
    {
        "match": _MATCH,
        "pruned": _described("config_id: the larger size / the recipe", type="string"),
        "kind": {"type": "string"},
        "scratch": _described("config_id: the size whose shape is left / fp32", type="string"),
        "difference": _described("test loss in nats, scratch - pruned: positive favours pruning", type="number"),
        "low": _described("95 % t interval over seeds and sentences; null with one seed", **_OPTIONAL_NUMBER),
        "high": _OPTIONAL_NUMBER,
        "p_value": _described("two-sided, not adjusted", **_PROBABILITY),
        "seeds": _described("that both have", type="integer", minimum=1),
    }
)

_CORRELATION = _object(
    {
        "cause": {"enum": ["d_model", "num_layers", "tokens_per_param"]},
        "measure": {"enum": ["weight_error", "added"]},
        "bits": {"type": "integer"},
        "tau": _described(
            "Kendall's, over pairs that differ in the cause alone", type=["number", "null"], minimum=-1, maximum=1
        ),
        "pairs": {"type": "integer", "minimum": 0},
    }
)

SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "verdict",
    "description": "Heavily against lightly compressed models at limits of bytes and of latency; positive differences favour heavy.",
    **_object(
        {
            "study": {"type": "string"},
            "claim": _described("one sentence, made from the counts below", type="string", minLength=1),
            "latency_claim": _described(
                "one sentence, made from the counts of `latency`, and which settings have no ladder; null where nothing "
                "was timed",
                type=["string", "null"],
            ),
            "quality_name": {"type": "string"},
            "thresholds": _object(
                {
                    "quality": _described("least difference that wins, in units of quality", type="number"),
                    "loss_percent": _described(
                        "least difference that wins, in percent of light's test loss", type="number"
                    ),
                    "p_value": _described("a winner's adjusted p is below this", type="number"),
                    "latency_tolerance": _described(
                        "a latency limit admits what is slower by this fraction: models of one shape in one engine do "
                        "nearly the same work",
                        type="number",
                    ),
                }
            ),
            "gflops_per_second": _described(
                "training speed by size", type="object", additionalProperties={"type": "number"}
            ),
            "matches": {
                "type": "array",
                "minItems": 1,
                "items": _object(
                    {
                        "matched": _MATCHED,
                        "match": _MATCH,
                        "budget": {"type": "string"},
                        "limits": _described(
                            "light: fp32, 16-bit or int8; heavy: at most 6 bits or half pruned, and at least 5x",
                            type="array",
                            items=_LIMIT,
                        ),
                        "limits_first_study": _described(
                            "light: at most 2x; heavy: at least 4x", type="array", items=_LIMIT
                        ),
                    }
                ),
            },
            "latency": _described(
                "one ladder a match and setting, where an int8 model of a size was timed, the smallest batch first; the "
                "classes are those of `limits`",
                type="array",
                items=_object(
                    {
                        "matched": _MATCHED,
                        "match": _MATCH,
                        "budget": {"type": "string"},
                        "threads": {"type": "integer", "minimum": 1},
                        "batch": _described("sentences", type="integer", minimum=1),
                        "configurations": _described("how many were on offer", type="integer", minimum=0),
                        "limits": {"type": "array", "minItems": 1, "items": _LATENCY_LIMIT},
                    }
                ),
            ),
            "students_claim": _described("one sentence from the rows below; null without any", type=["string", "null"]),
            "fronts": _described("under the primary match, one an axis", type="array", items=_FRONT),
            "from_scratch": _described(
                "models pruned to the shape of another size of the grid, beside that size",
                type="array",
                items=_FROM_SCRATCH,
            ),
            "why": _described("what rounding to nearest a row goes with", type="array", items=_CORRELATION),
            "students": _described(
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
