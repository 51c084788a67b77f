"""The Kubernetes runner: a Job for each attempt, watched to its end, its log read, and deleted.

An agent's time begins when its container runs. Nothing is decided on what the watch has not told: when an attempt's
time is up, the cluster itself is asked how it stands, for as long as that takes. What a killed trainer leaves is found
by its label at the next start, and ends by its own deadline until then.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from msgspec import structs

from nexrl_trainer.files import write_whole
from nexrl_trainer.recipe.agent import Agent
from nexrl_trainer.recipe.job_template import JobTemplate
from nexrl_trainer.rollouts.runners.command import with_folder
from nexrl_trainer.rollouts.runners.environment import agent_environment, fill
from nexrl_trainer.rollouts.runners.kubernetes.cluster import Cluster
from nexrl_trainer.rollouts.runners.kubernetes.manifests import Given, job_of, object_name, run_label, secret_of
from nexrl_trainer.rollouts.runners.kubernetes.patience import Patience
from nexrl_trainer.rollouts.runners.kubernetes.standing import NO_POD, REPLACED, Standing, deleted, explained, standing
from nexrl_trainer.rollouts.runners.kubernetes.watching import Seen, Watch
from nexrl_trainer.rollouts.runners.runner import DisturbedError, Ended, Job, Services, printed_answer
from nexrl_trainer.rollouts.runners.workspace import inside

IDENTITY = "kubernetes.id"
"""File in the run directory that tells its Jobs from those of another run of the same name."""
DRAIN_S = 30.0
"""Time for deletions when the run ends."""


class KubernetesRunner:
    """Runs `agent.kubernetes`; `directory` is the run's, `say` hears of outages."""

    def __init__(
        self, agent: Agent, *, recipe_folder: Path, directory: Path, services: Services, say: Callable[[str], None]
    ) -> None:
        assert agent.kubernetes
        self._agent = agent
        self._own = agent.kubernetes
        self._template = JobTemplate.read(recipe_folder / Path(self._own.template).expanduser(), self._own.container)
        self._recipe_folder = recipe_folder
        self._services = structs.replace(services, proxy=self._own.proxy, ingest=self._own.ingest)
        self._run = run_label(services.model, identity(directory))
        self._say = say
        self._patience = Patience(say)
        self._cluster: Cluster
        self._watch: Watch
        self._stack = contextlib.AsyncExitStack()
        self._deleting: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        own = self._own
        self._cluster = Cluster.reached(
            context=own.context, namespace=own.namespace, run=self._run, patience=self._patience
        )
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self._cluster.close)
            await self._cluster.check()
            if left := await self._sweep():
                self._say(f"{left} Kubernetes Jobs that an earlier start left were deleted")
            self._watch = await stack.enter_async_context(Watch(self._cluster, self._patience))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exception: object) -> None:
        try:
            async with asyncio.timeout(DRAIN_S):
                await asyncio.gather(*self._deleting)
                await self._sweep()
        except (TimeoutError, ValueError) as error:
            self._say(f"Kubernetes Jobs may be left ({error}); the next start deletes them, or by then the cluster has")
            for task in self._deleting:
                task.cancel()
        finally:
            await self._stack.aclose()

    async def run(self, job: Job, timeout_s: float) -> Ended:
        given, name = self._given(job), object_name(job.attempt)
        began = time.monotonic()
        with self._watch.of(name) as seen:
            try:
                await self._begin(given, timeout_s)
                how = await self._over(name, seen, timeout_s)
                log, unread = await self._log(how, seen)
            finally:
                task = asyncio.create_task(self._cluster.delete(name))
                self._deleting.add(task)
                task.add_done_callback(self._deleted)
        if how.disturbed:
            raise DisturbedError(f"agent: its pod was taken away: {how.reason}")
        answer = printed_answer(self._agent.answer, log)
        return Ended(
            exit_code=how.exit_code,
            timed_out=how.timed_out,
            problem=how.reason or ("" if answer is None or how.exit_code else unread),
            answer=answer,
            # A cluster keeps one log of both.
            stdout=log,
            stderr=log or (unread if how.exit_code else ""),
            duration_s=how.ran_s or time.monotonic() - began,
        )

    def _given(self, job: Job) -> Given:
        fields = with_folder(job.task, self._recipe_folder)
        # The template's own settings for a company's HTTP proxy, and for OpenTelemetry, are seen as inherited ones are.
        own = self._template.variables
        environment = agent_environment(self._services, job.key, self._agent.env, own)
        ours = {name: value for name, value in environment.items() if own.get(name) != value}
        files = {fill(path, fields): fill(text, fields) for path, text in (self._agent.files or {}).items()}
        for path in files:
            inside(Path(self._own.files_at), path)
        return Given(attempt=job.attempt, run=self._run, fields=fields, environment=ours, files=files)

    async def _begin(self, given: Given, timeout_s: float) -> None:
        limit_s = self._own.start_s + timeout_s
        wanted = job_of(self._template, given, limit_s=limit_s, files_at=self._own.files_at)
        made = await self._cluster.create(wanted, within_s=self._own.start_s)
        await self._cluster.create_secret(secret_of(made, given), within_s=self._own.start_s)
        if not self._template.queued:
            await self._cluster.begin(object_name(given.attempt), within_s=self._own.start_s)

    async def _over(self, name: str, seen: Seen, timeout_s: float) -> Standing:
        """Wait until an attempt is over; return how it ended."""
        limit, running = time.monotonic() + self._own.start_s, False
        while True:
            how = self._standing(seen)
            if how.now == "over":
                return await self._explained(name, how, seen)
            if how.now == "running" and not running:
                running, limit = True, time.monotonic() + timeout_s
            if await seen.change(limit - time.monotonic()):
                continue
            seen.note(await self._cluster.pod(name))
            how = self._standing(seen)
            if how.now == "running" and running:
                return structs.replace(how, timed_out=True)
            if how.now == "waiting":
                if reason := await self._given_up(name, how):
                    return Standing(now="over", reason=reason)
                limit = time.monotonic() + self._own.start_s

    def _standing(self, seen: Seen) -> Standing:
        if seen.pod is None:
            return NO_POD
        how = standing(seen.pod, self._template.container)
        if how.now == "over":
            return how
        if seen.replaced:
            return REPLACED
        return deleted(seen.pod) if seen.deleted else how

    async def _explained(self, name: str, how: Standing, seen: Seen) -> Standing:
        """Return the end of an attempt; where its pod is gone, its Job may say why, or have another by now."""
        if how.disturbed or not how.deleted:
            return how
        job = await self._cluster.job(name)
        seen.note(await self._cluster.pod(name))
        if seen.replaced:
            return REPLACED
        return explained(how, job) if job else how

    async def _given_up(self, name: str, how: Standing) -> str:
        """Return why an attempt that did not start in time ends; empty where a queue holds it."""
        job = await self._cluster.job(name)
        if job is None:
            return "its Job was deleted"
        if job.spec and job.spec.suspend:
            return ""
        reason = how.reason
        if how is NO_POD and (warning := await self._cluster.warning(name)):
            reason = warning
        return f"not started within {self._own.start_s:g} s: {reason}"

    async def _log(self, how: Standing, seen: Seen) -> tuple[str, str]:
        """Return what the agent printed, and where nobody knows, why."""
        pod = seen.pod.metadata.name if seen.pod and seen.pod.metadata else None
        if not how.logged or pod is None:
            return "", ""
        try:
            return await self._cluster.log(pod, self._template.container), ""
        except ValueError as error:
            return "", f"its log cannot be read: {error}"

    async def _sweep(self) -> int:
        """Delete every Job of the run; return how many there were."""
        names = await self._cluster.jobs()
        await asyncio.gather(*(self._cluster.delete(name) for name in names))
        return len(names)

    def _deleted(self, task: asyncio.Task[None]) -> None:
        self._deleting.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._say(f"a Kubernetes Job could not be deleted: {error}")


def identity(directory: Path) -> str:
    """Return what tells a run directory's Jobs from others, made up on first use."""
    file = directory / IDENTITY
    known = file.read_text().strip() if file.is_file() else ""
    if not known:
        known = secrets.token_hex(5)
        directory.mkdir(parents=True, exist_ok=True)
        write_whole(file, known.encode())
    return known
