"""Which rows of a source are kept: conditions on their fields. Nothing of a recipe is evaluated as code."""

import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from nexrl.errors import ConfigError
from nexrl_trainer.data.rows import Row
from nexrl_trainer.recipe.tasks import Condition, Operator


def _matches(value: Any, pattern: str) -> bool:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} is no text")
    return re.search(pattern, value) is not None


OPERATORS: Mapping[Operator, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "in": lambda value, several: value in several,
    "not in": lambda value, several: value not in several,
    "contains": operator.contains,
    "matches": _matches,
}


def holds(condition: Condition, row: Row) -> bool:
    """Whether a row fulfils a condition; raises ConfigError where it lacks the field or cannot be compared."""
    name = condition.field
    if name not in row.fields:
        raise ConfigError(f"{row.place}: where asks for {name!r}, the row has {', '.join(row.fields)}")
    value = row.fields[name]
    said = condition.value if condition.op in {"in", "not in"} else [condition.value]
    if condition.op != "contains" and any(_text_against_number(value, item) for item in said):
        raise _incomparable(condition, row)
    try:
        return bool(OPERATORS[condition.op](value, condition.value))
    except TypeError as error:
        raise _incomparable(condition, row) from error


def _text_against_number(value: Any, said: Any) -> bool:
    """Whether a comparison would quietly leave out every row: of a CSV file, whose values are text, "3" == 3."""
    return (isinstance(value, str) and isinstance(said, (int, float))) or (
        isinstance(value, (int, float)) and isinstance(said, str)
    )


def _incomparable(condition: Condition, row: Row) -> ConfigError:
    value = row.fields[condition.field]
    return ConfigError(
        f"{row.place}, field {condition.field!r}: {value!r} {condition.op} {condition.value!r} cannot be "
        f"said of {type(value).__name__} and {type(condition.value).__name__}; write the value as the source has it, "
        "or use keep"
    )
