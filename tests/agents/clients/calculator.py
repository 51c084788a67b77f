"""The tool that the agents beside this file have in common."""

import operator
import re

OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul}


def calculator(expression: str) -> str:
    """Calculate with two whole numbers.

    Args:
        expression: Two whole numbers with +, - or * between them, such as 3*4.
    """
    match = re.fullmatch(r"\s*(\d+)\s*([-+*])\s*(\d+)\s*", expression)
    if not match:
        return f"error: cannot calculate {expression!r}"
    return f"{expression} = {OPERATORS[match[2]](int(match[1]), int(match[3]))}"
