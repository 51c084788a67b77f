"""What a run starts from: the recipe's files, read and checked, and its model, made where it does not exist yet.

Everything that can be wrong in a recipe is found here, before Ray is loaded or the first process starts.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from rich.console import Console

from nexrl.errors import ConfigError
from nexrl.records import Task
from nexrl.rewards import RewardFunction, load_rewards
from nexrl_trainer.recipe import Recipe
from nexrl_trainer.rollouts.command import fill
from nexrl_trainer.tasks import read_tasks


class Given(Struct, frozen=True, kw_only=True):
    """What the recipe's files hold, read and checked."""

    tasks: list[Task]
    heldout: list[Task]
    rewards: list[RewardFunction]


def read(recipe: Recipe) -> Given:
    """Read the recipe's files; raises ConfigError or RewardError naming what is wrong with them."""
    recipe.check()
    tasks = read_tasks(recipe.resolve(recipe.tasks.train))
    heldout = read_tasks(recipe.resolve(recipe.tasks.heldout)) if recipe.tasks.heldout else []
    for task in (*tasks, *heldout):
        for template in (*recipe.agent.command, recipe.agent.stdin or ""):
            fill(template, task.fields)
    rewards = load_rewards(recipe.resolve(recipe.reward))
    return Given(tasks=tasks, heldout=heldout[: recipe.evaluation.limit], rewards=rewards)


def prepare_model(recipe: Recipe, console: Console) -> Path:
    """Return the model's directory, made first by the recipe's script where it does not exist yet.

    Raises ConfigError where the script fails (what it said stands above), and where another policy that the algorithm
    needs has another vocabulary.
    """
    path = recipe.resolve(recipe.model.path)
    if recipe.model.make and not path.exists():
        script = recipe.resolve(recipe.model.make)
        console.print(f"making the model: {script.name} -> {path}", highlight=False, soft_wrap=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        code = subprocess.run([sys.executable, str(script), "--out", str(path)], check=False).returncode
        if code:
            raise ConfigError(f"model.make={recipe.model.make} --out {path}: exit code {code}, see above")
    if not (path / "config.json").is_file():
        raise ConfigError(f"model.path={recipe.model.path}: no config.json in {path}")
    for name, other in recipe.algorithm.scorers.items():
        if other and vocabulary(recipe.resolve(other)) != vocabulary(path):
            raise ConfigError(
                f"the algorithm's {name}, {other}: its vocabulary is not that of {path}, so its logprobs would be of "
                "other tokens; use a model of the same family"
            )
    return path


def vocabulary(model: Path) -> Any:
    """Return what a model's token ids stand for; where it has no tokenizer.json, how many there are."""
    tokenizer = model / "tokenizer.json"
    if tokenizer.is_file():
        described = msgspec.json.decode(tokenizer.read_bytes())
        return described["model"].get("vocab"), described.get("added_tokens")
    return msgspec.json.decode((model / "config.json").read_bytes()).get("vocab_size")
