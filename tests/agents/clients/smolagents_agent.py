"""An agent on smolagents.

python smolagents_agent.py tools|code plain|streamed TASK [FOLLOW-UP ...]
"""

import os
import sys

from calculator import calculator
from smolagents import CodeAgent, LogLevel, OpenAIModel, ToolCallingAgent, tool


def main(kind, mode, *tasks):
    model = OpenAIModel(
        model_id=os.environ.get("OPENAI_MODEL", "gpt-4.1"),
        api_base=os.environ["OPENAI_BASE_URL"],
        api_key=os.environ["OPENAI_API_KEY"],
    )
    agent = {"tools": ToolCallingAgent, "code": CodeAgent}[kind](
        tools=[tool(calculator)],
        model=model,
        stream_outputs=mode == "streamed",
        verbosity_level=LogLevel.OFF,
    )
    for number, task in enumerate(tasks):
        print(f"\n{agent.run(task, reset=number == 0)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
