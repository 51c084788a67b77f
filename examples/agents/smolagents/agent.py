"""Answer an arithmetic question by writing Python: a smolagents CodeAgent with a prompt of its own."""

import os
import sys

from smolagents import ActionStep, CodeAgent, LogLevel, OpenAIModel
from smolagents.agents import EMPTY_PROMPT_TEMPLATES

SYSTEM = "Answer with Python between <code> and </code>. Call final_answer with a number."


def answer(question):
    model = OpenAIModel(
        model_id=os.environ.get("OPENAI_MODEL", "gpt-5.2"),
        api_base=os.environ.get("OPENAI_BASE_URL"),
        api_key=os.environ["OPENAI_API_KEY"],
    )
    agent = CodeAgent(
        tools=[],
        model=model,
        prompt_templates={**EMPTY_PROMPT_TEMPLATES, "system_prompt": SYSTEM},
        code_block_tags=("<code>", "</code>"),
        verbosity_level=LogLevel.OFF,
    )
    # One program a question: what the first step comes to is the answer, or what was wrong with it.
    first = next(step for step in agent.run(question, stream=True) if isinstance(step, ActionStep))
    return first.error.message if first.error else first.action_output


if __name__ == "__main__":
    print(answer(sys.argv[1]))
