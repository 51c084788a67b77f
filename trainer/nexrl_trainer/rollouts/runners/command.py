"""The command runner: any program in any language, a process for each attempt, in a folder of its own if asked.

When it ends, or its time is up, everything it started is killed: its process group, and what has left that. Where the
trainer itself is killed, `guard.py` does so. With `preload` the process is a fork, and what that forks into a session
of its own, starting no program, lives until the run ends.
"""

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self, TypedDict

from msgspec import structs

from nexrl import confine
from nexrl_trainer.recipe.agent import Agent, Limits
from nexrl_trainer.rollouts.runners.environment import ATTEMPT_VARIABLE, agent_environment, fill
from nexrl_trainer.rollouts.runners.fork_server import ForkServer
from nexrl_trainer.rollouts.runners.forked import run_forked
from nexrl_trainer.rollouts.runners.guard import Guard
from nexrl_trainer.rollouts.runners.process import Exit, run_process
from nexrl_trainer.rollouts.runners.runner import Ended, Job, Services, printed_answer
from nexrl_trainer.rollouts.runners.seclusion import check_seclusion, secluded
from nexrl_trainer.rollouts.runners.survivors import Survivors
from nexrl_trainer.rollouts.runners.workspace import Workspace, inside, read_answer

MIB = 1 << 20


class _About(TypedDict):
    """What both ways to start a process are told."""

    stdin: str | None
    environment: Mapping[str, str]
    folder: Path
    timeout_s: float
    kill_others: Callable[[], Awaitable[None]]


class CommandRunner:
    """Runs `agent.command`; folders of attempts are made in `workspaces`."""

    def __init__(self, agent: Agent, *, recipe_folder: Path, workspaces: Path, services: Services) -> None:
        assert agent.command
        self._agent = agent
        self._command = agent.command
        self._recipe_folder = recipe_folder
        self._workspaces = workspaces
        self._services = services
        self._survivors = Survivors()
        self._guard: Guard | None = None
        self._fork_server: ForkServer | None = None

    async def __aenter__(self) -> Self:
        if self._agent.preload:
            folder = self._recipe_folder / self._agent.cwd
            python, agent = interpreter(self._command[0]), self._agent
            self._fork_server = await ForkServer.start(python, agent.preload, folder, agent.env)
        if self._agent.network == "services":
            await check_seclusion()
        if self._agent.keep_files == "never":
            # Of an earlier start that was killed.
            await asyncio.to_thread(shutil.rmtree, self._workspaces, ignore_errors=True)
        self._guard = await Guard.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._survivors.close()
        if self._fork_server:
            await self._fork_server.close()
        if self._guard:
            await self._guard.close()

    async def run(self, job: Job, timeout_s: float) -> Ended:
        assert self._guard
        fields = with_folder(job.task, self._recipe_folder)
        workspace = self._workspace(job, fields)
        folder = workspace.folder if workspace else self._recipe_folder / self._agent.cwd
        failed = True
        try:
            answer_file = self._answer_file(folder, fields)
            with self._guard.over(job.attempt):
                exit_ = await self._run(job, fields, folder, timeout_s)
            failed = exit_.timed_out or bool(exit_.exit_code)
            return Ended(**structs.asdict(exit_), answer=self._answer(exit_, answer_file))
        finally:
            if workspace:
                # Not in the event loop: agents may leave thousands of files.
                await asyncio.to_thread(workspace.end, self._agent.keep_files, failed=failed)

    async def _run(self, job: Job, fields: Mapping[str, Any], folder: Path, timeout_s: float) -> Exit:
        environment = agent_environment(self._services, job.key, self._agent.env)
        command = [fill(word, fields) for word in self._command]
        about = _About(
            stdin=None if self._agent.stdin is None else fill(self._agent.stdin, fields),
            environment={**environment, ATTEMPT_VARIABLE: job.attempt},
            folder=folder,
            timeout_s=timeout_s,
            kill_others=lambda: self._survivors.kill(job.attempt),
        )
        if self._fork_server:
            return await run_forked(self._fork_server, command[1:], **about)
        async with self._program(command) as (program, passed):
            return await run_process(program, pass_fds=passed, **about)

    @asynccontextmanager
    async def _program(self, command: list[str]) -> AsyncGenerator[tuple[list[str], list[int]]]:
        """Yield what to start, and the file descriptors that it needs: the command, behind its limits."""
        program = [interpreter(command[0]), *command[1:]]
        limits = kernel_limits(self._agent.limits)
        if self._agent.network == "services":
            async with secluded([self._services.proxy, self._services.ingest]) as doors:
                yield confined(program, {**limits, "network": False, **doors.spec}), doors.passed
        elif limits:
            yield confined(program, {**limits, "network": True}), []
        else:
            yield program, []

    def _workspace(self, job: Job, fields: Mapping[str, Any]) -> Workspace | None:
        if self._agent.files is None:
            return None
        files = {fill(name, fields): fill(text, fields) for name, text in self._agent.files.items()}
        return Workspace.made(self._workspaces / job.attempt, files)

    def _answer_file(self, folder: Path, fields: Mapping[str, Any]) -> Path | None:
        file = self._agent.answer_file
        return inside(folder, fill(file, fields)) if file else None

    def _answer(self, exit_: Exit, file: Path | None) -> str | None:
        if file:
            return read_answer(file).strip()
        return printed_answer(self._agent.answer, exit_.stdout)


def interpreter(program: str) -> str:
    """Return what is started: `python` is this Python."""
    return sys.executable if program == "python" else program


def with_folder(task: Mapping[str, Any], recipe_folder: Path) -> dict[str, Any]:
    """Return what `{name}`s stand for; a task's own field goes before `{recipe_folder}`."""
    return {"recipe_folder": str(recipe_folder), **task}


def kernel_limits(limits: Limits) -> dict[str, int]:
    """Return limits as `confine.py` takes them: those that are set, in bytes, seconds and pieces."""
    memory, file = limits.memory_mib, limits.file_mib
    given = {
        "memory": memory and memory * MIB,
        "cpu_s": limits.cpu_s,
        "file": file and file * MIB,
        "open_files": limits.open_files,
    }
    return {name: value for name, value in given.items() if value is not None}


def confined(program: list[str], spec: Mapping[str, Any]) -> list[str]:
    """Return the command line that runs a program under limits; raises FileNotFoundError where PATH has no such."""
    found = program[0] if "/" in program[0] else shutil.which(program[0])
    if found is None:
        raise FileNotFoundError(2, "No such file or directory", program[0])
    return [sys.executable, "-I", "-S", confine.__file__, json.dumps(spec), found, *program[1:]]
