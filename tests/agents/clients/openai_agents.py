"""An agent on the OpenAI Agents SDK.

python openai_agents.py chat|responses plain|streamed TASK [FOLLOW-UP ...]
"""

import asyncio
import os
import sys

import agents
from calculator import calculator


async def answer(agent, task, session, *, streamed):
    if not streamed:
        return (await agents.Runner.run(agent, task, session=session)).final_output
    running = agents.Runner.run_streamed(agent, task, session=session)
    async for _ in running.stream_events():
        pass
    return running.final_output


async def main(api, mode, *tasks):
    if api == "chat":
        agents.set_default_openai_api("chat_completions")
    agent = agents.Agent(
        name="Calculator",
        instructions="You are a careful calculator.",
        model=os.environ.get("OPENAI_MODEL", "gpt-5.2"),
        tools=[agents.function_tool(calculator)],
    )
    session = agents.SQLiteSession("conversation")
    for task in tasks:
        print(await answer(agent, task, session, streamed=mode == "streamed"))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
