"""Arithmetic questions and a calculator, as a Gymnasium environment: its actions are words, or calls of its tool."""

import operator
import re

import gymnasium

OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "calculator",
            "description": "Compute a operator b.",
            "parameters": {
                "type": "object",
                "properties": {
                    "a": {"type": "integer"},
                    "operator": {"type": "string", "enum": list(OPERATORS)},
                    "b": {"type": "integer"},
                },
                "required": ["a", "operator", "b"],
            },
        },
    }
]


class Calculator(gymnasium.Env):
    tools = TOOLS

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.answer = options["answer"]
        return options["question"], {}

    def step(self, action):
        if isinstance(action, str):
            right = re.findall(r"-?\d+", action)[-1:] == [self.answer]
            return "", float(right), True, False, {}
        try:
            given = action.arguments
            result = str(OPERATORS[given["operator"]](int(given["a"]), int(given["b"])))
        except (KeyError, TypeError, ValueError) as error:
            result = f"error: {type(error).__name__}: {error}"
        return result, 0.0, False, False, {}
