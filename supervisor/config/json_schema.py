"""The JSON Schema of `models.toml`, by which editors complete and check it.

Generated from `schema`; written into the shipped file with
`python -m supervisor.config.json_schema > supervisor/config/models.schema.json`.
"""

from __future__ import annotations

import json
import sys

from supervisor.config.kinds import SCALAR
from supervisor.config.quantities import DURATION_PATTERN, NUMBER, SIZE_PATTERN
from supervisor.config.schema import FILE

VARIABLE = r"\$\{env:"
"""Text with a variable in it may turn out to be anything."""


def schema() -> dict[str, object]:
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "models.toml",
        "description": "The config file of llama-supervise.",
        **FILE.json,
        "$defs": {
            "option": {"anyOf": [SCALAR.json, {"type": "array", "items": SCALAR.json}]},
            "duration": _quantity("number", DURATION_PATTERN),
            "size": _quantity("integer", SIZE_PATTERN),
        },
    }


def _quantity(number: str, pattern: str) -> dict[str, object]:
    text = {"type": "string", "minLength": 1, "pattern": f"^(?:{NUMBER}|{pattern})$|{VARIABLE}"}
    return {"anyOf": [{"type": number, "minimum": 0}, text]}


def rendered() -> str:
    """The text of the shipped file."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(rendered())
