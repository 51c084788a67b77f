"""mini-swe-agent in the folder it is started in.

python mini_swe_agent.py tools|text TASK
"""

import os
import sys
from pathlib import Path

import yaml
from minisweagent import package_dir
from minisweagent.agents.default import DefaultAgent
from minisweagent.environments.local import LocalEnvironment
from minisweagent.models.litellm_model import LitellmModel
from minisweagent.models.litellm_textbased_model import LitellmTextbasedModel

KINDS = {"tools": ("mini.yaml", LitellmModel), "text": ("default.yaml", LitellmTextbasedModel)}


def main(kind, task):
    file, model_class = KINDS[kind]
    config = yaml.safe_load(Path(package_dir / "config" / file).read_text())
    name = "openai/" + os.environ.get("OPENAI_MODEL", "gpt-4.1")
    model = model_class(model_name=name, cost_tracking="ignore_errors", **config["model"])
    agent = DefaultAgent(
        model,
        LocalEnvironment(**config["environment"]),
        **{name: config["agent"][name] for name in ("system_template", "instance_template")},
    )
    print(agent.run(task)["submission"].strip())


if __name__ == "__main__":
    main(*sys.argv[1:])
