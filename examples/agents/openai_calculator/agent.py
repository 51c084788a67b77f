"""Answer an arithmetic question with a calculator: an agent as anybody would write it with the OpenAI SDK."""

import json
import operator
import os
import sys

from openai import OpenAI

SYSTEM = "Answer with a number. Use the calculator for every operation."
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
                    "operator": {"type": "string", "enum": ["+", "-", "*"]},
                    "b": {"type": "integer"},
                },
                "required": ["a", "operator", "b"],
            },
        },
    }
]
OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul}
MAX_TURNS = 4


def run_tool(name: str, arguments: str) -> str:
    """Return the tool's result, or what was wrong with the call, for the model to read."""
    if name != "calculator":
        return f"error: there is no tool {name!r}"
    try:
        given = json.loads(arguments)
        return str(OPERATORS[given["operator"]](int(given["a"]), int(given["b"])))
    except (KeyError, TypeError, ValueError) as error:
        return f"error: {type(error).__name__}: {error}"


def answer(question: str) -> str:
    client = OpenAI()
    model = os.environ.get("OPENAI_MODEL", "default")
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
    text = ""
    for _ in range(MAX_TURNS):
        reply = client.chat.completions.create(model=model, messages=messages, tools=TOOLS, max_tokens=64)
        message = reply.choices[0].message
        text = message.content or ""
        if not message.tool_calls:
            break
        messages.append(message.model_dump(exclude_none=True))
        for call in message.tool_calls:
            result = run_tool(call.function.name, call.function.arguments)
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    return text


if __name__ == "__main__":
    print(answer(sys.argv[1] if len(sys.argv) > 1 else sys.stdin.read().strip()))
