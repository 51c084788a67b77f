"""The quick start's reward: 1 where the one number in the final answer is the right one."""

import re
from typing import Any

import nexrl


@nexrl.reward
def correct(task: dict[str, Any], answer: str) -> float:
    """Return 1.0 or 0.0. An answer that names several numbers is wrong, so that listing guesses cannot pay."""
    return float(re.findall(r"-?\d+(?:[.,]\d+)*", answer) == [task["answer"]])
