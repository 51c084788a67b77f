"""What a run starts from: the recipe's files, read and checked, and its models, made where they do not exist yet.

Everything that can be wrong in a recipe is found here, before Ray is loaded or the first process starts.
"""

import subprocess
import sys
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from rich.console import Console

from nexrl.errors import ConfigError
from nexrl.records import Task
from nexrl.rewards import RewardFunction, load_rewards
from nexrl_trainer.data.pools import Pool, read_pools
from nexrl_trainer.recipe import Recipe
from nexrl_trainer.recipe.agent import Agent
from nexrl_trainer.recipe.job_template import JobTemplate
from nexrl_trainer.recipe.model import Model, refuse_no_model
from nexrl_trainer.recipe.sessions import Sessions
from nexrl_trainer.rollouts.hindsight import refuse_planned
from nexrl_trainer.rollouts.runners.command import with_folder
from nexrl_trainer.rollouts.runners.environment import agent_environment, fill
from nexrl_trainer.rollouts.runners.runner import Services


class Given(Struct, frozen=True, kw_only=True):
    """What the recipe's files hold, read and checked."""

    tasks: list[Pool]
    heldout: list[Task]
    rewards: list[RewardFunction]
    judges: list[RewardFunction]
    """Of sessions that nobody planned."""


def read(recipe: Recipe) -> Given:
    """Read the recipe's files, its models excepted; raises ConfigError or RewardError naming what is wrong there."""
    recipe.check()
    pools = read_pools(recipe.tasks, recipe.resolve)
    heldout = pools.heldout[: recipe.evaluation.limit]
    texts = agent_texts(recipe, recipe.agent) if recipe.agent else []
    for task in chain(heldout, *(pool.tasks for pool in pools.train)):
        for template in texts:
            _refuse_no_field(recipe, template, task, pools.places)
    rewards = load_rewards(recipe.resolve(recipe.reward)) if recipe.reward else []
    judges = read_judges(recipe, recipe.sessions) if recipe.sessions else []
    return Given(tasks=pools.train, heldout=heldout, rewards=rewards, judges=judges)


def _refuse_no_field(recipe: Recipe, template: str, task: Task, places: Mapping[str, str]) -> None:
    try:
        given_to_agent(recipe, template, task)
    except ConfigError as error:
        raise ConfigError(f"task {task.id!r} ({places[task.id]}): {error}") from error


def agent_texts(recipe: Recipe, agent: Agent) -> list[str]:
    """Return every text of the agent's with `{name}`s in it; raises ConfigError for a Job that cannot be one's."""
    if agent.kubernetes is None:
        return agent.templates
    template = JobTemplate.read(recipe.resolve(agent.kubernetes.template), agent.kubernetes.container)
    services = Services(proxy=agent.kubernetes.proxy, ingest=agent.kubernetes.ingest, model=recipe.name)
    template.refuse_variables(agent_environment(services, "its key", agent.env, template.variables))
    return [*agent.templates, *template.texts]


def read_judges(recipe: Recipe, sessions: Sessions) -> list[RewardFunction]:
    """Return what judges sessions that nobody planned; raises ConfigError for a function that cannot."""
    judges = load_rewards(recipe.resolve(sessions.reward)) if sessions.reward else []
    refuse_planned(judges)
    for name in {judge.name for judge in judges} & sessions.feedback.keys():
        raise ConfigError(f"sessions.feedback.{name}: a function of {sessions.reward} is called so; rename one")
    return judges


def given_to_agent(recipe: Recipe, template: str, task: Task) -> str:
    """Return one of the agent's texts about a task; raises ConfigError where it asks for what the task lacks."""
    return fill(template, with_folder(task.fields, recipe.resolve(".")))


def prepare_models(recipe: Recipe, console: Console) -> dict[str, Path]:
    """Return the directories of the models that learn, by `Call.policy`, made first where they do not exist yet.

    Raises ConfigError where a script that makes one fails (what it said stands above), and where another policy that
    the algorithm needs has another vocabulary.
    """
    paths = {
        name: _prepared(recipe, f"policies.{name}" if name else "model", model, console)
        for name, model in recipe.models.items()
    }
    for name, other in recipe.algorithm.scorers.items():
        if other and vocabulary(recipe.resolve(other)) != vocabulary(paths[""]):
            raise ConfigError(
                f"the algorithm's {name}, {other}: its vocabulary is not that of {paths['']}, so its logprobs would be "
                "of other tokens; use a model of the same family"
            )
    return paths


def _prepared(recipe: Recipe, setting: str, model: Model, console: Console) -> Path:
    path = recipe.resolve(model.path)
    if model.make and not path.exists():
        script = recipe.resolve(model.make)
        console.print(f"making the model: {script.name} -> {path}", highlight=False, soft_wrap=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        code = subprocess.run([sys.executable, str(script), "--out", str(path)], check=False).returncode
        if code:
            raise ConfigError(f"{setting}.make={model.make} --out {path}: exit code {code}, see above")
    refuse_no_model(f"{setting}.path={model.path}", model.path, path)
    return path


def vocabulary(model: Path) -> Any:
    """Return what a model's token ids stand for; where it has no tokenizer.json, how many there are."""
    tokenizer = model / "tokenizer.json"
    if tokenizer.is_file():
        described = msgspec.json.decode(tokenizer.read_bytes())
        return described["model"].get("vocab"), described.get("added_tokens")
    return msgspec.json.decode((model / "config.json").read_bytes()).get("vocab_size")
