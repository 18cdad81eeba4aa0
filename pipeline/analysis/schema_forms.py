"""Pieces that the JSON schema of verdict.json is made of."""

from __future__ import annotations

from typing import Any


def exactly(properties: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an object that has all of these properties and no other."""
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def described(text: str, **schema: Any) -> dict[str, Any]:
    """Return a schema with its description."""
    return {"description": text, **schema}


def list_of(properties: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a list of objects that have exactly these properties."""
    return {"type": "array", "items": exactly(properties)}


def nullable(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of what may also be null."""
    return {"anyOf": [schema, {"type": "null"}]}


OPTIONAL_NUMBER = {"type": ["number", "null"]}
PROBABILITY = {"type": ["number", "null"], "minimum": 0, "maximum": 1}
MATCH = {"enum": ["seconds", "flops"]}
NATS = "nats a token of translations, a sentence of classifications"
