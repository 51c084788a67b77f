"""Which runner a recipe's agent has."""

from collections.abc import Callable
from pathlib import Path

from nexrl_trainer.recipe.agent import Agent
from nexrl_trainer.rollouts.runners.callable import CallableRunner
from nexrl_trainer.rollouts.runners.command import CommandRunner
from nexrl_trainer.rollouts.runners.runner import Runner, Services


def runner_of(
    agent: Agent,
    *,
    recipe_folder: Path,
    workspaces: Path,
    log: Path,
    services: Services,
    say: Callable[[str], None],
) -> Runner:
    """Return the runner of a recipe's agent; `say` hears of what people should know about the runner itself."""
    if agent.callable or agent.environment:
        return CallableRunner(agent, recipe_folder=recipe_folder, services=services, log=log)
    if agent.kubernetes:
        # Its client is an extra that is installed where it is used.
        from nexrl_trainer.rollouts.runners.kubernetes.runner import KubernetesRunner

        return KubernetesRunner(
            agent, recipe_folder=recipe_folder, directory=workspaces.parent, services=services, say=say
        )
    return CommandRunner(agent, recipe_folder=recipe_folder, workspaces=workspaces, services=services)
