"""The real processes an agent talks to: engine, ingest and proxy; and the agent, as a process of its own.

    client ──► nexrl proxy ──► glass ──► python -m nexrl_trainer.engines.embedded
                   └──► nexrl ingest

What an agent's run must leave behind is judged by `agents_exactness` and the tests.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from agents_exactness import Sampled, sampled
from agents_glass import Glass
from msgspec import Struct

from nexrl.keys import attempt_key, new_admin_key
from nexrl_trainer.services.process import ServiceProcess

QUIET = {
    "ANONYMIZED_TELEMETRY": "false",
    "CREWAI_DISABLE_TELEMETRY": "true",
    "CREWAI_TRACING_ENABLED": "false",
    "HF_HUB_OFFLINE": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "true",
    "NO_PROXY": "127.0.0.1",
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
    "OTEL_SDK_DISABLED": "true",
    "PYTHONUNBUFFERED": "1",
}
"""Keeps frameworks from calling home, which takes their time out where there is no network."""
PATIENCE_S = 180


class Said(Struct, frozen=True):
    """How an agent's process ended."""

    code: int
    answers: list[str]
    """Lines on standard output."""
    errors: str

    def shown(self) -> str:
        return "\n".join(["it said:", *self.answers, "and on standard error:", self.errors])


class Captured(Struct, frozen=True):
    """What is known of one attempt afterwards."""

    sampled: list[Sampled]
    """By the engine."""
    session: dict[str, Any]
    """By ingest, and so is the trajectory."""
    trajectory: dict[str, Any]
    flushed: int
    """Calls the proxy says that it recorded."""


class World:
    """Where agents run, one at a time."""

    def __init__(self, *, proxy: str, ingest: str, glass: Glass, admin_key: str) -> None:
        self.proxy = proxy
        self.ingest = ingest
        self.glass = glass
        self._admin_key = admin_key

    def run(
        self, command: Sequence[str | Path], attempt: str, home: Path, *, base: str = "", **environment: str
    ) -> Said:
        """Run an agent with nothing but an address and a key; `base` stands for the proxy where it is given."""
        given = {"PATH": os.environ["PATH"], "HOME": str(home), **QUIET, **self.addresses(attempt, base or self.proxy)}
        process = subprocess.Popen(
            list(map(str, command)),
            env={**given, **environment},
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            output, errors = process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, errors = process.communicate()
            errors += f"\nit did not end within {PATIENCE_S} s"
        return Said(process.returncode, output.splitlines(), errors)

    def addresses(self, attempt: str, base: str) -> Mapping[str, str]:
        key = attempt_key(attempt, self._admin_key)
        return {
            "OPENAI_BASE_URL": f"{base}/v1",
            "OPENAI_API_BASE": f"{base}/v1",
            "OPENAI_API_KEY": key,
            "ANTHROPIC_BASE_URL": base,
            "ANTHROPIC_API_KEY": key,
        }

    def captured(self, attempt: str) -> Captured:
        """Wait until everything of an attempt is with ingest, and return it."""
        flushed = self._asked("POST", f"{self.proxy}/api/sessions/{attempt}/flush")["calls"]
        return Captured(
            sampled=[sampled(passed) for passed in self.glass.taken() if passed.path == "/generate"],
            session=self._asked("GET", f"{self.ingest}/api/sessions/{attempt}"),
            trajectory=self._asked("GET", f"{self.ingest}/api/sessions/{attempt}/trajectory"),
            flushed=flushed,
        )

    def _asked(self, method: str, url: str) -> dict[str, Any]:
        request = urllib.request.Request(url, method=method, headers={"authorization": f"Bearer {self._admin_key}"})
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as reply:
            return json.load(reply)


@contextlib.contextmanager
def world_of(model: Path, folder: Path) -> Iterator[World]:
    """Start the processes, and stop them in order."""
    key = new_admin_key()
    with contextlib.ExitStack() as stack:

        def started(name: str, *argv: str | Path) -> str:
            argv = (*argv, "--port", "0", "--exit-with-parent")
            environment = {"NEXRL_ADMIN_KEY": key, "OMP_NUM_THREADS": "1"}
            service = ServiceProcess(name, list(map(str, argv)), str(folder / f"{name}.log"), environment)
            stack.callback(service.stop)
            return service.url()

        nexrl = Path(sys.executable).with_name("nexrl")
        engine = started("engine", sys.executable, "-m", "nexrl_trainer.engines.embedded", "--model", model)
        glass = stack.enter_context(Glass(engine))
        ingest = started("ingest", nexrl, "ingest", "--data", folder / "ingest")
        proxy = started(
            *("proxy", nexrl, "proxy", "--engine", glass.url, "--model", model, "--ingest", ingest),
            *("--data", folder / "proxy", "--require-session"),
        )
        yield World(proxy=proxy, ingest=ingest, glass=glass, admin_key=key)
