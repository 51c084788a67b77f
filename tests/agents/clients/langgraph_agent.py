"""An agent on LangGraph, built by LangChain.

python langgraph_agent.py chat|responses plain|streamed TASK [FOLLOW-UP ...]
"""

import os
import sys

from calculator import calculator
from langchain.agents import create_agent
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver


def main(api, mode, *tasks):
    model = ChatOpenAI(model=os.environ.get("OPENAI_MODEL", "gpt-5.2"), use_responses_api=api == "responses")
    agent = create_agent(
        model,
        tools=[calculator],
        system_prompt="You are a careful calculator.",
        checkpointer=InMemorySaver(),
    )
    thread = {"configurable": {"thread_id": "conversation"}}
    for task in tasks:
        state = {"messages": [{"role": "user", "content": task}]}
        if mode == "streamed":
            for _ in agent.stream(state, thread, stream_mode="messages"):
                pass
            last = agent.get_state(thread).values["messages"][-1]
        else:
            last = agent.invoke(state, thread)["messages"][-1]
        print(last.text)


if __name__ == "__main__":
    main(*sys.argv[1:])
