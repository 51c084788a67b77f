"""Answer an arithmetic question with a calculator: an agent on Pydantic AI."""

import os
import sys
from typing import Literal

from pydantic_ai import Agent, UsageLimits
from pydantic_ai.exceptions import AgentRunError

agent = Agent(
    f"openai-chat:{os.environ.get('OPENAI_MODEL', 'gpt-5.2')}",
    instructions="Answer with a number. Use the calculator for every operation.",
)


@agent.tool_plain
def calculator(a: int, operator: Literal["+", "-", "*"], b: int) -> int:
    """Compute a operator b."""
    return {"+": a + b, "-": a - b, "*": a * b}[operator]


def answer(question):
    try:
        return agent.run_sync(question, usage_limits=UsageLimits(request_limit=4)).output
    except AgentRunError as error:
        return f"I cannot say: {type(error).__name__}"


if __name__ == "__main__":
    print(answer(sys.argv[1]))
