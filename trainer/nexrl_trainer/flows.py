"""What brings a run its rollouts, put together as its recipe says: agents on tasks, or sessions as they come."""

import contextlib

from msgspec import Struct

from nexrl.records import Group
from nexrl_ingest.client import IngestClient
from nexrl_trainer.data.draws import Draws
from nexrl_trainer.data.groups import training_group
from nexrl_trainer.directory import RunDirectory, State
from nexrl_trainer.inputs import Given
from nexrl_trainer.progress import Progress
from nexrl_trainer.recipe import Recipe
from nexrl_trainer.recipe.sessions import Sessions
from nexrl_trainer.rollouts.attempts import Attempts
from nexrl_trainer.rollouts.collected import Flow
from nexrl_trainer.rollouts.failures import Failures
from nexrl_trainer.rollouts.feed import Feed
from nexrl_trainer.rollouts.hindsight import Hindsight
from nexrl_trainer.rollouts.judging import Judge
from nexrl_trainer.rollouts.proxy import ProxyClient
from nexrl_trainer.rollouts.quarantine import Quarantine
from nexrl_trainer.rollouts.runners.choosing import runner_of
from nexrl_trainer.rollouts.runners.runner import Services as AgentServices
from nexrl_trainer.rollouts.sessions import SessionFlow


class Ground(Struct, frozen=True, kw_only=True):
    """What rollouts are run and judged over; what is started on it ends with `stack`."""

    stack: contextlib.AsyncExitStack
    recipe: Recipe
    given: Given
    directory: RunDirectory
    ingest: IngestClient
    proxy: ProxyClient
    admin_key: str
    progress: Progress


async def attempts_of(on: Ground) -> Attempts | None:
    """Return what runs and judges the agents; None where the run has no agent."""
    recipe, directory, agent = on.recipe, on.directory, on.recipe.agent
    if agent is None:
        return None
    judge = Judge(
        rewards=on.given.rewards,
        rule=recipe.rewards,
        ingest=on.ingest,
        folder=directory.path / "judging",
        log=directory.logs / "rewards.log",
    )
    runner = runner_of(
        agent,
        recipe_folder=recipe.resolve("."),
        workspaces=directory.path / "workspaces",
        log=directory.logs / "agents.log",
        services=AgentServices(
            proxy=on.proxy.url, ingest=on.ingest.url, model=recipe.name, secrets=recipe.proxy.key_variables
        ),
        say=on.progress.note,
    )
    return Attempts(
        agent=agent,
        runner=await on.stack.enter_async_context(runner),
        judge=await on.stack.enter_async_context(judge),
        ingest=on.ingest,
        proxy=on.proxy,
        admin_key=on.admin_key,
        quarantine=Quarantine(agent.quarantine, file=directory.path / "quarantine.json", say=on.progress.note),
        failures=Failures(directory.logs / "failures.log"),
        on_outcome=on.progress.rollout,
    )


async def flow_of(on: Ground, attempts: Attempts | None, draws: Draws, state: State) -> Flow:
    """Return what brings the groups that are trained, going on from `state`."""
    if on.recipe.sessions:
        return await on.stack.enter_async_context(await _sessions(on, on.recipe.sessions))
    assert attempts, "a recipe without sessions has an agent"
    feed = Feed(
        on.recipe.rollouts,
        plan=lambda number: planned(on.recipe, draws, number),
        attempts=attempts,
        ingest=on.ingest,
        position=state.position,
        version=state.version,
    )
    return await on.stack.enter_async_context(feed)


def planned(recipe: Recipe, draws: Draws, number: int) -> Group:
    """Return the run's group of that number."""
    return training_group(recipe.name, number, draws.task(number), recipe.rollouts.group_size)


async def _sessions(on: Ground, sessions: Sessions) -> SessionFlow:
    on.progress.note(f"agents call {on.proxy.url}/v1, feedback goes to {on.ingest.url}")
    log = on.directory.logs / "sessions.log"
    judge = Hindsight(rewards=on.given.judges, rule=sessions, ingest=on.ingest, log=log)
    return SessionFlow(
        on.recipe.name,
        sessions.external(on.recipe.group_size),
        size=on.recipe.rollouts.groups_per_step,
        max_staleness=sessions.max_staleness,
        ingest=on.ingest,
        judge=await on.stack.enter_async_context(judge),
        say=on.progress.waiting,
        on_outcome=on.progress.rollout,
    )
