"""The sloppy demonstrator: dialogues in which somebody who knows the format often does the wrong thing.

He says a number he has just read instead of calculating, takes the wrong operator, or stops after the first of two
steps; the rest he does well. A model supervised on him is mediocre in the same ways, and that is what training by
reward can change. Rendering and tokenising are `tokens.py`'s.
"""

import random
from typing import Any

from problems import OPERATORS, Problem, Step, calculate

# What examples/agents/openai_calculator/agent.py sends; tests/end_to_end compares the two.
SYSTEM = "Answer with a number. Use the calculator for every operation."
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "calculator",
            "description": "Compute a operator b.",
            "parameters": {
                "type": "object",
                "properties": {
                    "a": {"type": "integer"},
                    "operator": {"type": "string", "enum": ["+", "-", "*"]},
                    "b": {"type": "integer"},
                },
                "required": ["a", "operator", "b"],
            },
        },
    }
]

GUESSES = 0.42
"""Share of problems he answers at once, with a number he has just read."""
WRONG_OPERATORS = 0.15
"""Share of his calculator calls that take an operator the question does not ask for."""
STOPS_SHORT = 0.3
"""Share of two-step problems where he takes the first step's result for the answer."""

Message = dict[str, Any]


def demonstrate(problem: Problem, rng: random.Random) -> list[Message]:
    """Return the dialogue in which he answers `problem`, from the system message to his last word."""
    messages: list[Message] = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": problem.question},
    ]
    steps = steps_taken(problem, rng)
    for step in steps:
        messages += [_call(step), {"role": "tool", "content": str(calculate(step))}]
    return [*messages, final(calculate(steps[-1]) if steps else problem.first[2])]


def steps_taken(problem: Problem, rng: random.Random) -> list[Step]:
    """Return what he calculates, rightly or wrongly; nothing where he guesses."""
    if rng.random() < GUESSES:
        return []
    steps = [problem.first] if problem.then and rng.random() < STOPS_SHORT else problem.steps
    taken: list[Step] = []
    for a, symbol, b in steps:
        taken.append((calculate(taken[-1]) if taken else a, _operator(symbol, rng), b))
    return taken


def _operator(right: str, rng: random.Random) -> str:
    wrong = [symbol for symbol in OPERATORS if symbol != right]
    return rng.choice(wrong) if rng.random() < WRONG_OPERATORS else right


def _call(step: Step) -> Message:
    arguments = dict(zip(("a", "operator", "b"), step, strict=True))
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": "calculator", "arguments": arguments}}],
    }


def final(number: int) -> Message:
    """Return what is said at the end."""
    return {"role": "assistant", "content": f"The answer is {number}."}
