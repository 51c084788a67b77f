"""An agent on the OpenAI SDK's chat completions.

python openai_chat.py plain|streamed TASK [FOLLOW-UP ...]
"""

import json
import os
import sys

from calculator import calculator
from openai import OpenAI

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "calculator",
            "description": "Calculate with two whole numbers.",
            "parameters": {
                "type": "object",
                "properties": {"expression": {"type": "string"}},
                "required": ["expression"],
                "additionalProperties": False,
            },
        },
    }
]
MODEL = os.environ.get("OPENAI_MODEL", "gpt-5.2")


def say(client, messages, *, streamed):
    if not streamed:
        return client.chat.completions.create(model=MODEL, messages=messages, tools=TOOLS).choices[0].message
    with client.chat.completions.stream(model=MODEL, messages=messages, tools=TOOLS) as events:
        for _ in events:
            pass
        return events.get_final_completion().choices[0].message


def answer(client, messages, *, streamed):
    while True:
        message = say(client, messages, streamed=streamed)
        messages.append(message.model_dump(exclude_none=True))
        if not message.tool_calls:
            return message.content
        for call in message.tool_calls:
            result = calculator(**json.loads(call.function.arguments))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})


def main(mode, *tasks):
    client = OpenAI()
    messages = [{"role": "system", "content": "You are a careful calculator."}]
    for task in tasks:
        messages.append({"role": "user", "content": task})
        print(answer(client, messages, streamed=mode == "streamed"))


if __name__ == "__main__":
    main(*sys.argv[1:])
