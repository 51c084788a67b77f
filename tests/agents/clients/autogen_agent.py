"""An agent on AutoGen AgentChat.

python autogen_agent.py plain|streamed TASK [FOLLOW-UP ...]
"""

import asyncio
import os
import sys

from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.base import TaskResult
from autogen_ext.models.openai import OpenAIChatCompletionClient
from calculator import calculator


async def main(mode, *tasks):
    client = OpenAIChatCompletionClient(model=os.environ.get("OPENAI_MODEL", "gpt-4.1"))
    agent = AssistantAgent(
        "calculating_assistant",
        model_client=client,
        tools=[calculator],
        system_message="You are a careful calculator.",
        model_client_stream=mode == "streamed",
        max_tool_iterations=5,
        reflect_on_tool_use=False,
    )
    for task in tasks:
        async for event in agent.run_stream(task=task):
            if isinstance(event, TaskResult):
                print(event.messages[-1].content)
    await client.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
