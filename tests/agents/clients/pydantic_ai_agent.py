"""An agent on Pydantic AI.

python pydantic_ai_agent.py openai-chat|openai-responses|anthropic plain|streamed TASK [FOLLOW-UP ...]
"""

import asyncio
import os
import sys

from calculator import calculator
from pydantic_ai import Agent, AgentRunResultEvent

MODELS = {
    "openai-chat": os.environ.get("OPENAI_MODEL", "gpt-5.2"),
    "openai-responses": os.environ.get("OPENAI_MODEL", "gpt-5.2"),
    "anthropic": os.environ.get("ANTHROPIC_MODEL", "claude-sonnet-4-5"),
}


async def run(agent, task, history, *, streamed):
    if not streamed:
        return await agent.run(task, message_history=history)
    async with agent.run_stream_events(task, message_history=history) as events:
        async for event in events:
            if isinstance(event, AgentRunResultEvent):
                return event.result
    raise RuntimeError("the run ended without a result")


async def main(api, mode, *tasks):
    agent = Agent(f"{api}:{MODELS[api]}", instructions="You are a careful calculator.", tools=[calculator])
    history = None
    for task in tasks:
        result = await run(agent, task, history, streamed=mode == "streamed")
        history = result.all_messages()
        print(result.output)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
