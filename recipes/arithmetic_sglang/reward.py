"""When a sum is right. A number at all is worth a little, so that a model that only chats has somewhere to go."""

import re
from typing import Any

import nexrl

SAID_A_NUMBER = 0.1


@nexrl.reward
def correct(task: dict[str, Any], answer: str) -> float:
    """Return 1.0 where the last number is the right one, and it names no other than those that were asked about."""
    numbers = re.findall(r"\d+", answer)
    if not numbers:
        return 0.0
    asked = re.findall(r"\d+", task["question"])
    others = set(numbers) - set(asked) - {task["answer"]}
    return 1.0 if numbers[-1] == task["answer"] and not others else SAID_A_NUMBER
