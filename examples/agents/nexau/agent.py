"""Answer an arithmetic question through a sub-agent with a calculator: NexAU, as the YAML beside this file says."""

import sys
from pathlib import Path

from nexau import Agent, AgentConfig

CONFIG = Path(__file__).with_name("agent.yaml")


def answer(question):
    return Agent(config=AgentConfig.from_yaml(CONFIG)).run(message=question)


if __name__ == "__main__":
    print(answer(sys.argv[1]))
