"""The `agent` part of a recipe: what is run for each attempt, with what, and how long."""

import contextlib
import os
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, field

from nexrl.errors import ConfigError
from nexrl_trainer.recipe.kubernetes import ELSEWHERE, Kubernetes
from nexrl_trainer.recipe.part import Part, Positive, Seconds
from nexrl_trainer.templates import fill

KINDS = ("command", "callable", "environment", "kubernetes")
"""What may stand in an agent's place; the recipe gives one."""
FILE = "file:"
OUTSIDE = "{}: give a path inside the agent's folder"
PYTHON = re.compile(r"([^{}]*/)?python[\d.]*")
"""A Python by its name or its path."""


class Limits(Part, frozen=True, kw_only=True):
    memory_mib: Positive | None = None
    """Address space of each of the agent's processes (RLIMIT_AS). Node.js reserves far more than it uses."""
    cpu_s: Positive | None = None
    """Seconds of CPU time of each of its processes (RLIMIT_CPU)."""
    file_mib: Positive | None = None
    """Size of each file it writes (RLIMIT_FSIZE)."""
    open_files: Positive | None = None
    """Files and connections that each of its processes has open at a time (RLIMIT_NOFILE)."""


class Agent(Part, frozen=True, kw_only=True):
    command: Annotated[list[str], Meta(min_length=1)] | None = None
    """Program and arguments; `{name}` stands for the task's field of that name, `{recipe_folder}` for the recipe's
    folder. `python` is this Python. One of these: `command`, `callable`, `environment`,
    `kubernetes`."""
    callable: Annotated[str, Meta(pattern=r"^.+\.py:\w+$")] | None = None
    """`file.py:function`: a function, async or not, that runs in worker processes; its result is the answer."""
    environment: Annotated[str, Meta(pattern=r"^.+\.py:\w+$")] | None = None
    """`file.py:Class`: no agent, but what one acts in, with Gymnasium's `reset` and `step`; one is made for each
    attempt and played with the model. What `step` returns is its reward, and `reward` may be left out."""
    system: str | None = None
    """System prompt for `environment`, with the same `{name}`s."""
    max_turns: Positive = 32
    """The model's replies after which an episode of `environment` is cut off; what it has earned by then counts."""
    max_tokens: Positive | None = None
    """Tokens after which each of these replies ends; none leaves it to `proxy.sampling`, and to the model's context."""
    kubernetes: Kubernetes | None = None
    """A container image: a Job in a cluster for each attempt, made from a template."""
    workers: Positive | None = None
    """Processes that share the calls of `callable`, or the episodes of `environment`; none is one for each core."""
    stdin: str | None = None
    """Text for the agent's standard input, with the same `{name}`s."""
    env: dict[str, str] = field(default_factory=dict[str, str])
    cwd: str = "."
    """Folder that the command runs in."""
    files: dict[str, str] | None = None
    """Files that are written for each attempt, text by path, with the same `{name}`s, into a fresh folder that the
    command then runs in, or to `kubernetes.files_at`; `{}` is an empty one."""
    keep_files: Literal["never", "failed", "always"] = "never"
    """Whether that folder stays, in the run directory's `workspaces/`: never, after a failed attempt, or always."""
    answer: Annotated[str, Meta(pattern=r"^(stdout|last_line|message|file:.+)$")] = "stdout"
    """Where the answer stands: what the agent prints, the `last_line` of that, the model's last `message`, or, with
    a command's `files`, `file:PATH`: a path in that folder, with the same `{name}`s."""
    limits: Limits = Limits()
    preload: list[str] = field(default_factory=list[str])
    """Modules that the command, `[python, SCRIPT, ...]` or `[python, -m, MODULE, ...]`, spends its start importing: its
    Python imports them once, and every agent is a fork of that. Modules that start threads are refused."""
    network: Literal["any", "services"] = "any"
    """`services` leaves the command nothing of the network but the proxy and ingest. Linux with user namespaces."""
    timeout_s: Seconds = 120.0
    concurrency: Positive = 8
    """Agents running at the same time."""
    attempts: Positive = 2
    """Tries per rollout before it is recorded as failed."""
    quarantine: Positive | None = None
    """A task is set aside for the rest of the run once the agents of so many of its groups in a row have all failed."""

    def __post_init__(self) -> None:
        if len([kind for kind in KINDS if getattr(self, kind) is not None]) != 1:
            raise ValueError(f"agent: give one of {', '.join(f'`{kind}`' for kind in KINDS)}")
        of_commands = ("stdin", "cwd", "files", "keep_files", "answer", "limits", "preload", "network")
        in_workers = self.callable or self.environment
        if in_workers and (named := [name for name in self.changed() if name in of_commands]):
            raise ValueError(f"agent.{named[0]} is about commands: remove it, or use agent.command")
        if self.workers and not in_workers:
            raise ValueError("agent.workers is about agent.callable: others have a process for each attempt")
        if self.kubernetes:
            self._check_kubernetes()
        of_environments = ("system", "max_turns", "max_tokens")
        if not self.environment and (named := [name for name in self.changed() if name in of_environments]):
            raise ValueError(f"agent.{named[0]} is about environments: remove it, or use agent.environment")
        if self.preload:
            self._check_preload()
        if self.files is None and self.keep_files != "never":
            raise ValueError(f"agent.keep_files={self.keep_files}: there are no files of its own; set agent.files")
        if self.files is not None and self.cwd != ".":
            raise ValueError(f"agent.cwd={self.cwd}: with agent.files it runs in a fresh folder; leave one of them out")
        self._check_paths()

    def _check_paths(self) -> None:
        answer = self.answer_file
        if answer and self.files is None:
            raise ValueError(f"agent.answer={self.answer}: agents would share that file; set agent.files: {{}}")
        for path in (*(self.files or ()), *([answer] if answer else ())):
            with contextlib.suppress(KeyError):  # a task's field is in it: known when it runs
                if leads_out(fill(path, {})):
                    raise ValueError(f"agent.{'answer' if path == answer else 'files'}: {OUTSIDE.format(path)}")

    def _check_kubernetes(self) -> None:
        for name in self.changed():
            if name in ELSEWHERE:
                raise ValueError(f"agent.{name}: a Kubernetes agent has no such setting; {ELSEWHERE[name]}")
        if self.answer_file:
            raise ValueError(f"agent.answer={self.answer}: no file of a pod is read; use stdout, last_line or message")

    def _check_preload(self) -> None:
        program, first = [*(self.command or []), "", ""][:2]
        if not PYTHON.fullmatch(program) or not first or (first.startswith("-") and first != "-m"):
            raise ValueError("agent.preload: the command has to begin with [python, SCRIPT] or [python, -m, MODULE]")
        for name, value in (("limits", Limits()), ("network", "any")):
            if getattr(self, name) != value:
                raise ValueError(f"agent.preload: a fork cannot be put under agent.{name}; leave one of them out")
        if early := [name for name in self.env if name.startswith("PYTHON")]:
            raise ValueError(f"agent.preload: agent.env.{early[0]} is read before a fork begins; leave one of them out")

    @property
    def answer_file(self) -> str | None:
        """Path in the agent's folder, with `{name}`s; None where the answer stands elsewhere."""
        return self.answer.removeprefix(FILE) if self.answer.startswith(FILE) else None

    @property
    def templates(self) -> list[str]:
        """Every text with `{name}`s in it."""
        files = [text for pair in (self.files or {}).items() for text in pair]
        return [*(self.command or []), self.stdin or "", self.answer_file or "", self.system or "", *files]

    def check(self, resolve: Callable[[str], Path]) -> None:
        """Raise ConfigError for files that are not there."""
        for kind, named in (("callable", self.callable), ("environment", self.environment)):
            if named and not (path := resolve(named.rpartition(":")[0])).is_file():
                raise ConfigError(f"agent.{kind}={named}: no file {path}")
        for name in self.preload if self.command and self.command[0] == "python" else ():
            if not find_spec(name.partition(".")[0]):
                raise ConfigError(f"agent.preload: this Python has no module {name!r}; install it, or leave it out")
        if not resolve(self.cwd).is_dir():
            raise ConfigError(f"agent.cwd={self.cwd}: no folder {resolve(self.cwd)}")


def leads_out(path: str) -> bool:
    """Whether a path, taken from a folder, is none of something in it. Example: `a/../../b` -> True."""
    plain = Path(os.path.normpath(path))
    return plain.is_absolute() or plain.parts[:1] in {(), (os.pardir,)}
