"""The schemas of the jobs that a cluster serves, and what an API server makes of them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema

SCHEMAS = Path(os.environ.get("DRTUNE_SCHEMAS") or Path(__file__).parents[2] / "shared" / "schemas")
KINDS = {"pytorchjobs": "pytorchjob-kubeflow.org-v1", "trainjobs": "trainjob-trainer.kubeflow.org-v1alpha1"}
Object = dict[str, Any]


@cache
def validator_of(plural: str) -> jsonschema.Draft202012Validator | None:
    """Holds objects against the schema of their kind, and refuses unknown fields too; None where there is no schema."""
    schema = schema_of(plural)
    return jsonschema.Draft202012Validator(strict(schema)) if schema else None


@cache
def schema_of(plural: str) -> Object | None:
    """The schema that the cluster has of a kind."""
    path = SCHEMAS / f"{KINDS[plural]}.json"
    return json.loads(path.read_text())["openAPIV3Schema"] if path.exists() else None


def strict(schema: Object) -> Object:
    made: Object = {}
    for key, value in schema.items():
        if key == "properties":
            made[key] = {name: strict(part) for name, part in value.items()}
        else:
            made[key] = strict(value) if isinstance(value, dict) else value
    closes = "properties" in schema and "additionalProperties" not in schema
    return made | ({"additionalProperties": False} if closes else {})


def unknown_fields(item: Any, schema: Object, path: str = "") -> Iterator[tuple[str, Object, str]]:
    """Each field that a structural schema does not have: where it is, what it stands in, and its name."""
    if isinstance(item, list):
        for number, part in enumerate(item):
            yield from unknown_fields(part, schema.get("items", {}), f"{path}[{number}]")
    elif isinstance(item, dict):
        known, others = schema.get("properties"), schema.get("additionalProperties")
        for key, value in item.items():
            where = f"{path}.{key}".lstrip(".")
            if known and key in known:
                yield from unknown_fields(value, known[key], where)
            elif isinstance(others, dict):
                yield from unknown_fields(value, others, where)
            elif known is not None and not others and not schema.get("x-kubernetes-preserve-unknown-fields"):
                yield where, item, key
