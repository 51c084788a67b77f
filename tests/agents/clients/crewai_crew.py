"""A crew of one, on CrewAI.

python crewai_crew.py plain|streamed TASK
"""

import os
import sys

from calculator import calculator
from crewai import LLM, Agent, Crew, Task
from crewai.tools import tool


def main(mode, question):
    llm = LLM(model="openai/" + os.environ.get("OPENAI_MODEL", "gpt-4.1"), stream=mode == "streamed")
    agent = Agent(
        role="Calculator",
        goal="Calculate without a mistake",
        backstory="You are a careful calculator.",
        tools=[tool("calculator")(calculator)],
        llm=llm,
    )
    task = Task(description=question, expected_output="A sentence that holds the number.", agent=agent)
    print(Crew(agents=[agent], tasks=[task]).kickoff())


if __name__ == "__main__":
    main(*sys.argv[1:])
