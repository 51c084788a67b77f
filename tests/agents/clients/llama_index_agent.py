"""An agent on LlamaIndex.

python llama_index_agent.py functions|react plain|streamed TASK [FOLLOW-UP ...]
"""

import asyncio
import os
import sys

from calculator import calculator
from llama_index.core.agent.workflow import FunctionAgent, ReActAgent
from llama_index.core.memory import Memory
from llama_index.llms.openai import OpenAI


async def main(kind, mode, *tasks):
    agent = {"functions": FunctionAgent, "react": ReActAgent}[kind](
        tools=[calculator],
        llm=OpenAI(model=os.environ.get("OPENAI_MODEL", "gpt-4.1")),
        system_prompt="You are a careful calculator.",
        streaming=mode == "streamed",
    )
    memory = Memory.from_defaults(session_id="conversation")
    for task in tasks:
        print(await agent.run(task, memory=memory))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
