"""Answer an arithmetic question with a calculator: a LangGraph agent, a model and its tools in a loop."""

import os
import sys
from typing import Literal

from langchain_openai import ChatOpenAI
from langgraph.errors import GraphRecursionError
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

SYSTEM = "Answer with a number. Use the calculator for every operation."
MAX_NODES = 8


def calculator(a: int, operator: Literal["+", "-", "*"], b: int) -> int:
    """Compute a operator b."""
    return {"+": a + b, "-": a - b, "*": a * b}[operator]


def make_graph():
    model = ChatOpenAI(model=os.environ.get("OPENAI_MODEL", "gpt-5.2")).bind_tools([calculator])

    def ask(state: MessagesState):
        return {"messages": [model.invoke([("system", SYSTEM), *state["messages"]])]}

    graph = StateGraph(MessagesState)
    graph.add_node("model", ask)
    graph.add_node("tools", ToolNode([calculator], handle_tool_errors=True))
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", tools_condition)
    graph.add_edge("tools", "model")
    return graph.compile()


def answer(question):
    try:
        state = make_graph().invoke({"messages": [("user", question)]}, {"recursion_limit": MAX_NODES})
    except GraphRecursionError:
        return "I am going round in circles."
    return state["messages"][-1].text


if __name__ == "__main__":
    print(answer(sys.argv[1]))
