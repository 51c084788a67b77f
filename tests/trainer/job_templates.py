"""Templates of Jobs, read as a run reads them, and attempts to make of them."""

import re
from pathlib import Path

import msgspec
import yaml

from nexrl_trainer.recipe import load_recipe
from nexrl_trainer.recipe.job_template import JobTemplate
from nexrl_trainer.rollouts.runners.kubernetes.manifests import Given

PAGE = (Path(__file__).parents[2] / "docs/agents.md").read_text()


JOB = {
    "apiVersion": "batch/v1",
    "kind": "Job",
    "metadata": {"name": "mine", "labels": {"team": "t"}},
    "spec": {"template": {"spec": {"containers": [{"name": "agent", "image": "agent:{version}"}]}}},
}


def on_the_page(name):
    return re.search(rf"^```yaml {name}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)[1]


def changed(path, value):
    """The Job with one more thing in it; `[]` is the first container."""
    job = msgspec.msgpack.decode(msgspec.msgpack.encode(JOB))
    node, names = job, path.split(".")
    for name in names[:-1]:
        node = node["containers"][0] if name == "[]" else node.setdefault(name, {})
    node[names[-1]] = value
    return job


def read(folder, job, container=None):
    (folder / "job.yaml").write_text(job if isinstance(job, str) else yaml.safe_dump(job))
    return JobTemplate.read(folder / "job.yaml", container)


def attempt(**fields):
    defaults = {"attempt": "r-1@eval", "run": "r-9", "fields": {"version": "7"}, "environment": {}, "files": {}}
    return Given(**{**defaults, **fields})


RECIPE = """
name: r
steps: 1
model: {{path: model}}
tasks: {{train: tasks.jsonl}}
reward: reward.py
proxy: {proxy}
ingest: {{host: 0.0.0.0, port: 2}}
agent: {{kubernetes: {{template: job.yaml, proxy: "{url}", ingest: "http://t:2"}}}}
"""


def recipe_in(folder, job):
    for name, text in {
        "recipe.yaml": RECIPE.format(proxy="{host: 0.0.0.0, port: 1}", url="http://t:1"),
        "job.yaml": yaml.safe_dump(job),
        "tasks.jsonl": '{"id": "a", "version": "7"}\n',
        "reward.py": "import nexrl\n\n@nexrl.reward\ndef judged():\n    return 1.0\n",
    }.items():
        (folder / name).write_text(text)
    return load_recipe(folder / "recipe.yaml", environment={})
