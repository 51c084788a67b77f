"""An agent on Qwen-Agent, which streams whatever is asked.

    python qwen_agent_assistant.py text|native TASK [FOLLOW-UP ...]

`text` writes tools and calls into the messages, as Qwen-Agent does by itself; `native` uses the API's own fields.
"""

import json
import os
import sys

from calculator import calculator
from qwen_agent.agents import Assistant
from qwen_agent.tools.base import BaseTool, register_tool


@register_tool("calculator")
class Calculator(BaseTool):
    description = "Calculate with two whole numbers."
    parameters = ({"name": "expression", "type": "string", "required": True},)

    def call(self, params, **_):
        return calculator(json.loads(params)["expression"])


def main(kind, *tasks):
    assistant = Assistant(
        llm={
            "model": os.environ.get("OPENAI_MODEL", "qwen3-max"),
            "model_server": os.environ["OPENAI_BASE_URL"],
            "generate_cfg": {"use_raw_api": True} if kind == "native" else {},
        },
        system_message="You are a careful calculator.",
        function_list=["calculator"],
    )
    messages = []
    for task in tasks:
        messages.append({"role": "user", "content": task})
        *_, replies = assistant.run(messages=messages)
        messages += replies
        print(replies[-1]["content"])


if __name__ == "__main__":
    main(*sys.argv[1:])
