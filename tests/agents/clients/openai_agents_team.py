"""An agent that asks two others at a time, on the OpenAI Agents SDK.

python openai_agents_team.py chat|responses TASK
"""

import asyncio
import os
import sys

import agents
from calculator import calculator

MODEL = os.environ.get("OPENAI_MODEL", "gpt-5.2")


async def main(api, task):
    if api == "chat":
        agents.set_default_openai_api("chat_completions")
    expert = agents.Agent(
        name="Expert",
        instructions="You are a careful calculator.",
        model=MODEL,
        tools=[agents.function_tool(calculator)],
    )
    lead = agents.Agent(
        name="Lead",
        instructions="You leave all calculations to the expert.",
        model=MODEL,
        tools=[expert.as_tool("expert", "Works out one product.")],
    )
    print((await agents.Runner.run(lead, task)).final_output)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
