"""What a run's first tasks are, as the agent is given them: to look at one's data before training on it. Pure."""

import shlex
from collections.abc import Iterator
from typing import Any

import msgspec

from nexrl.errors import ConfigError
from nexrl.records import Task
from nexrl_trainer.data.draws import draws_of
from nexrl_trainer.inputs import Given, given_to_agent
from nexrl_trainer.recipe import Recipe
from nexrl_trainer.recipe.agent import Agent

SHOWN = 200
"""Characters of a field that is only listed; what the agent is given stands there whole."""


def preview(recipe: Recipe, given: Given, count: int) -> str:
    """Return the sources with their shares, and the tasks of the first `count` groups in the order of the run.

    Raises ConfigError where the recipe has no tasks to train on.
    """
    if not recipe.agent or not given.tasks:
        raise ConfigError(f"{recipe.name}: it learns from `sessions` and draws no tasks; there are none to show")
    draws = draws_of(recipe, given.tasks, {}, None)
    lines = list(_pools(recipe, given))
    for number in range(count):
        lines += ["", *_task(recipe, recipe.agent, number, draws.task(number))]
    return "\n".join(lines) + "\n"


def _pools(recipe: Recipe, given: Given) -> Iterator[str]:
    total = sum(pool.weight for pool in given.tasks)
    for pool in given.tasks:
        share = f", {pool.weight / total:.0%} of groups" if len(given.tasks) > 1 else ""
        yield f"{pool.name}: {len(pool.tasks)} tasks{share}, {recipe.tasks.order}"
    yield f"held out: {len(given.heldout)} tasks"


def _task(recipe: Recipe, agent: Agent, number: int, task: Task) -> Iterator[str]:
    yield f"group {number}: task {task.id}"
    if agent.command:
        yield from _item("command", shlex.join(given_to_agent(recipe, text, task) for text in agent.command))
    if agent.callable:
        yield from _item("callable", agent.callable)
    if agent.kubernetes:
        yield from _item("template", agent.kubernetes.template)
    if agent.environment:
        yield from _item("environment", agent.environment)
    if agent.system is not None:
        yield from _item("system", given_to_agent(recipe, agent.system, task))
    if agent.stdin is not None:
        yield from _item("stdin", given_to_agent(recipe, agent.stdin, task))
    for path, text in (agent.files or {}).items():
        yield from _item(f"file {given_to_agent(recipe, path, task)}", given_to_agent(recipe, text, task))
    for name, value in task.fields.items():
        yield from _item(f".{name}", _short(value))


def _item(name: str, text: str) -> Iterator[str]:
    first, *others = text.split("\n")
    yield f"  {name:<10} {first}"
    for line in others:
        yield f"  {'':<10} {line}"


def _short(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text)} characters)"
