"""Answer an arithmetic question with a calculator: the OpenAI Agents SDK, which speaks the Responses API."""

import os
import sys
from typing import Literal

from agents import Agent, AgentsException, Runner, function_tool

SYSTEM = "Answer with a number. Use the calculator for every operation."


@function_tool
def calculator(a: int, operator: Literal["+", "-", "*"], b: int) -> int:
    """Compute a operator b."""
    return {"+": a + b, "-": a - b, "*": a * b}[operator]


def answer(question):
    agent = Agent(
        name="Calculator",
        instructions=SYSTEM,
        model=os.environ.get("OPENAI_MODEL", "gpt-5.2"),
        tools=[calculator],
    )
    try:
        return Runner.run_sync(agent, question, max_turns=4).final_output
    except AgentsException as error:
        return f"I cannot say: {type(error).__name__}"


if __name__ == "__main__":
    print(answer(sys.argv[1]))
