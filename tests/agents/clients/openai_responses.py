"""An agent on the OpenAI SDK's Responses API.

    python openai_responses.py stateless|stored plain|streamed TASK [FOLLOW-UP ...]

`stateless` sends the whole conversation every time, `stored` only what is new behind `previous_response_id`.
"""

import json
import os
import sys

from calculator import calculator
from openai import OpenAI

TOOLS = [
    {
        "type": "function",
        "name": "calculator",
        "description": "Calculate with two whole numbers.",
        "parameters": {
            "type": "object",
            "properties": {"expression": {"type": "string"}},
            "required": ["expression"],
            "additionalProperties": False,
        },
        "strict": True,
    }
]
MODEL = os.environ.get("OPENAI_MODEL", "gpt-5.2")


class Conversation:
    def __init__(self, *, stored, streamed):
        self.client = OpenAI()
        self.stored, self.streamed = stored, streamed
        self.items, self.previous = [], None

    def say(self, *new):
        """Send what is new and return the response."""
        self.items = [*new] if self.stored else [*self.items, *new]
        request = {
            "model": MODEL,
            "instructions": "You are a careful calculator.",
            "input": self.items,
            "tools": TOOLS,
            "store": self.stored,
        }
        if self.stored and self.previous:
            request["previous_response_id"] = self.previous
        response = self.sent(request)
        self.previous = response.id
        self.items += response.output
        return response

    def sent(self, request):
        if not self.streamed:
            return self.client.responses.create(**request)
        with self.client.responses.stream(**request) as events:
            for _ in events:
                pass
            return events.get_final_response()

    def answer(self, task):
        response = self.say({"role": "user", "content": task})
        while calls := [item for item in response.output if item.type == "function_call"]:
            response = self.say(
                *(
                    {
                        "type": "function_call_output",
                        "call_id": call.call_id,
                        "output": calculator(**json.loads(call.arguments)),
                    }
                    for call in calls
                )
            )
        return response.output_text


def main(memory, mode, *tasks):
    conversation = Conversation(stored=memory == "stored", streamed=mode == "streamed")
    for task in tasks:
        print(conversation.answer(task))


if __name__ == "__main__":
    main(*sys.argv[1:])
