"""Answer an arithmetic question with a calculator: a loop on the Anthropic SDK, which speaks the Messages API."""

import operator
import os
import sys

from anthropic import Anthropic

SYSTEM = "Answer with a number. Use the calculator for every operation."
OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul}
TOOLS = [
    {
        "name": "calculator",
        "description": "Compute a operator b.",
        "input_schema": {
            "type": "object",
            "properties": {
                "a": {"type": "integer"},
                "operator": {"type": "string", "enum": list(OPERATORS)},
                "b": {"type": "integer"},
            },
            "required": ["a", "operator", "b"],
        },
    }
]
MAX_TURNS = 4


def run_tool(use):
    """Return the block that tells the model what came of its call, or what was wrong with it."""
    try:
        result = str(OPERATORS[use.input["operator"]](int(use.input["a"]), int(use.input["b"])))
    except (KeyError, TypeError, ValueError) as error:
        return {"type": "tool_result", "tool_use_id": use.id, "content": f"error: {error}", "is_error": True}
    return {"type": "tool_result", "tool_use_id": use.id, "content": result}


def answer(question):
    client = Anthropic()
    model = os.environ.get("ANTHROPIC_MODEL", "claude-sonnet-4-5")
    messages = [{"role": "user", "content": question}]
    text = ""
    for _ in range(MAX_TURNS):
        reply = client.messages.create(model=model, max_tokens=64, system=SYSTEM, messages=messages, tools=TOOLS)
        text = "".join(block.text for block in reply.content if block.type == "text")
        uses = [block for block in reply.content if block.type == "tool_use"]
        if not uses:
            break
        messages.append({"role": "assistant", "content": reply.content})
        messages.append({"role": "user", "content": [run_tool(use) for use in uses]})
    return text


if __name__ == "__main__":
    print(answer(sys.argv[1]))
