"""An agent on NexAU: alone, with its history compacted, or asking another, as the YAML in `nexau/` says.

python nexau_agent.py single|compacting|team chat|responses|anthropic structured|xml plain|streamed TASK [FOLLOW-UP ...]
"""

import os
import sys
from pathlib import Path

from nexau import Agent, AgentConfig

CONFIGS = Path(__file__).with_name("nexau")
APIS = {"chat": "openai_chat_completion", "responses": "openai_responses", "anthropic": "anthropic_chat_completion"}


def main(name, api, tools, mode, *tasks):
    config = AgentConfig.from_yaml(CONFIGS / f"{name}.yaml")
    for each in (config, *(config.sub_agents or {}).values()):
        each.tool_call_mode = tools
        each.llm_config.update(api_type=APIS[api], stream=mode == "streamed")
        if api == "anthropic":  # of addresses, NexAU looks for OpenAI's alone
            each.llm_config.update(base_url=os.environ["ANTHROPIC_BASE_URL"])
    agent = Agent(config=config)
    for task in tasks:
        print(agent.run(message=task))


if __name__ == "__main__":
    main(*sys.argv[1:])
