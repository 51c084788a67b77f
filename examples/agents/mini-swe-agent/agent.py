"""Answer an arithmetic question in a shell: mini-swe-agent, configured by the file beside this one."""

import os
import sys
import tempfile
from pathlib import Path

import yaml
from minisweagent.agents.default import DefaultAgent
from minisweagent.environments.local import LocalEnvironment
from minisweagent.models.litellm_model import LitellmModel

CONFIG = Path(__file__).with_name("agent.yaml")


def answer(question):
    config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    name = "openai/" + os.environ.get("OPENAI_MODEL", "gpt-5.2")
    model = LitellmModel(model_name=name, cost_tracking="ignore_errors", **config["model"])
    with tempfile.TemporaryDirectory() as folder:
        agent = DefaultAgent(model, LocalEnvironment(cwd=folder, **config["environment"]), **config["agent"])
        return agent.run(question)["submission"].strip()


if __name__ == "__main__":
    print(answer(sys.argv[1]))
