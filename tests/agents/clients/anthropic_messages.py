"""An agent on the Anthropic SDK.

python anthropic_messages.py plain|streamed TASK [FOLLOW-UP ...]
"""

import os
import sys

from anthropic import Anthropic
from calculator import calculator

TOOLS = [
    {
        "name": "calculator",
        "description": "Calculate with two whole numbers.",
        "input_schema": {
            "type": "object",
            "properties": {"expression": {"type": "string"}},
            "required": ["expression"],
        },
    }
]
MODEL = os.environ.get("ANTHROPIC_MODEL", "claude-sonnet-4-5")


def say(client, messages, *, streamed):
    request = {
        "model": MODEL,
        "max_tokens": 1024,
        "system": [
            {"type": "text", "text": "You are a careful calculator.", "cache_control": {"type": "ephemeral"}},
        ],
        "messages": messages,
        "tools": TOOLS,
    }
    if not streamed:
        return client.messages.create(**request)
    with client.messages.stream(**request) as stream:
        for _ in stream:
            pass
        return stream.get_final_message()


def answer(client, messages, *, streamed):
    while True:
        message = say(client, messages, streamed=streamed)
        messages.append({"role": "assistant", "content": message.content})
        uses = [block for block in message.content if block.type == "tool_use"]
        if not uses:
            return "".join(block.text for block in message.content if block.type == "text")
        results = [{"type": "tool_result", "tool_use_id": use.id, "content": calculator(**use.input)} for use in uses]
        messages.append({"role": "user", "content": results})


def main(mode, *tasks):
    client = Anthropic()
    messages = []
    for task in tasks:
        messages.append({"role": "user", "content": task})
        print(answer(client, messages, streamed=mode == "streamed"))


if __name__ == "__main__":
    main(*sys.argv[1:])
