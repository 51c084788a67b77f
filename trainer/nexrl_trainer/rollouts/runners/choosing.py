"""Which runner a recipe's agent has."""

from pathlib import Path

from nexrl_trainer.recipe.agent import Agent
from nexrl_trainer.rollouts.runners.callable import CallableRunner
from nexrl_trainer.rollouts.runners.command import CommandRunner
from nexrl_trainer.rollouts.runners.runner import Runner, Services


def runner_of(agent: Agent, *, recipe_folder: Path, workspaces: Path, log: Path, services: Services) -> Runner:
    """Return the runner of a recipe's agent."""
    if agent.callable:
        return CallableRunner(agent, recipe_folder=recipe_folder, services=services, log=log)
    return CommandRunner(agent, recipe_folder=recipe_folder, workspaces=workspaces, services=services)
