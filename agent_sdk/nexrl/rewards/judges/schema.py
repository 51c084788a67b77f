"""A judge of JSON: is it some, and is it what a schema says."""

import json
import re
from typing import Any

from nexrl.errors import RewardError
from nexrl.rewards.judges.missing import package
from nexrl.rewards.returned import Verdict

_FENCED = re.compile(r"```(?:json)?[ \t]*\n(.*?)```", re.DOTALL)


def valid_json(answer: str, schema: dict[str, Any] | None = None) -> Verdict:
    """1 where the answer, or the last fenced block in it, is JSON that the schema allows; else 0, and why.

    Any draft of JSON Schema, by its `$schema`. Raises RewardError where the schema itself is wrong.

    Example: valid_json('{"city": "Rome"}', {"type": "object", "required": ["city"]}) -> Verdict(1.0, "")
    """
    fenced = _FENCED.findall(answer)
    try:
        value = json.loads(fenced[-1] if fenced else answer)
    except ValueError as error:
        return Verdict(0.0, f"no JSON: {error}")
    if schema is None:
        return Verdict(1.0)
    jsonschema = package("jsonschema", "jsonschema")
    kind = jsonschema.validators.validator_for(schema)
    try:
        kind.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise RewardError(f"the schema is wrong: {error.message}") from error
    problem = jsonschema.exceptions.best_match(kind(schema).iter_errors(value))
    return Verdict(0.0, f"{problem.json_path}: {problem.message}") if problem else Verdict(1.0)
