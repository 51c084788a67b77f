"""The gateways that are measured, each as a context that starts and stops it.

Every one stands before the same engine and gets the same calls. Those of other projects run in virtual environments
of their own, named on the command line; the project depends on none of them.
"""

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Generator
from pathlib import Path

import msgspec

from gateways.gateway import CHAT, Bench, Gateway, get, post, target, wait_until_up
from gateways.processes import Process, cores, module, running
from gateways.wire import ROLLOUTS
from gateways.workload import MODEL
from nexrl.keys import ADMIN_KEY_VARIABLE, new_admin_key

NATIVE = "/generate: ids, logprobs"
OPENAI = "chat completion: logprobs, token ids"
SETTLE_S = 60.0
START_S = 120.0


@contextlib.contextmanager
def direct(bench: Bench, *, native: bool) -> Generator[Gateway]:
    """Call the engine itself: the floor of engine and load. Its CPU time is the engine's."""
    path = "/generate" if native else CHAT
    yield Gateway(
        name=f"engine, directly ({path})",
        engine_sends=NATIVE if native else OPENAI,
        native=native,
        target=target(bench.engine_url, path),
        process=bench.engine,
    )


@contextlib.contextmanager
def passthrough(bench: Bench) -> Generator[Gateway]:
    """Forward bytes: the floor of a gateway in Python."""
    core, _ = cores()
    with running(module("passthrough", bench.engine_url), bench.directory / "passthrough.log", on=core) as process:
        yield Gateway(
            name="bare aiohttp + uvloop pass-through",
            engine_sends=OPENAI,
            native=False,
            target=target(process.ready(), CHAT),
            process=process,
        )


class Delivery:
    """What the proxy says of the spans it has recorded."""

    def __init__(self, url: str, key: str, ingest: Process) -> None:
        self._url = url
        self._headers = {"authorization": f"Bearer {key}"}
        self._ingest = ingest

    def stats(self) -> dict[str, int]:
        return msgspec.json.decode(get(f"{self._url}/api/stats", self._headers))

    def settle(self) -> None:
        """Wait until ingest has acknowledged every span."""
        deadline = time.monotonic() + SETTLE_S
        while self.stats()["pending"]:
            if time.monotonic() > deadline:
                raise SystemExit(f"nexrl proxy: spans are not delivered after {SETTLE_S:.0f} s: {self.stats()}")
            time.sleep(0.1)

    def report(self) -> str:
        """Return how many calls were recorded, and what that cost ingest."""
        self.settle()
        now = self.stats()
        each = 1000 * self._ingest.cpu_s() / max(1, now["delivered"])
        return (
            f"{now['calls']} calls, {now['delivered']} spans acknowledged by ingest "
            f"(ingest's own CPU: {each:.2f} ms a span), {now.get('inexact', 0)} inexact"
        )


@contextlib.contextmanager
def nexrl(bench: Bench) -> Generator[Gateway]:
    """`nexrl proxy` with `nexrl ingest` beside it: rendering, parsing, recording and delivering."""
    core, others = cores()
    command = str(Path(sys.executable).with_name("nexrl"))
    key = new_admin_key()
    env = {ADMIN_KEY_VARIABLE: key}
    folder = bench.directory / f"nexrl-{time.monotonic_ns()}"
    folder.mkdir()
    store = [command, "ingest", "--port", "0", "--data", str(folder / "ingest")]
    with running(store, folder / "ingest.log", on=others, env=env, cwd=folder) as ingest:
        proxy = [command, "proxy", "--port", "0", "--data", str(folder / "proxy"), "--model", str(bench.model)]
        proxy += ["--engine", bench.engine_url, "--ingest", ingest.ready()]
        with running(proxy, folder / "proxy.log", on=core, env=env, cwd=folder) as process:
            url = process.ready()
            delivery = Delivery(url, key, ingest)
            yield Gateway(
                name="nexrl proxy",
                engine_sends=NATIVE,
                native=True,
                target=target(url, CHAT, admin_key=key),
                process=process,
                settle=delivery.settle,
                report=delivery.report,
            )


@contextlib.contextmanager
def agent_lightning(bench: Bench, venv: Path) -> Generator[Gateway]:
    """Agent Lightning 1.0's server: it captures, and keeps what it captures in memory."""
    core, _ = cores()
    port, folder, key = free_port(), bench.directory / "agent-lightning", "a-key-for-the-bench"
    folder.mkdir(exist_ok=True)
    command = [str(venv / "bin" / "agl-server"), "host=127.0.0.1", f"port={port}", f"key={key}"]
    command += [f"default_proxy.model_name={MODEL}", "hydra.run.dir=."]
    url, headers = f"http://127.0.0.1:{port}", {"authorization": f"Bearer {key}"}
    with running(command, folder / "server.log", on=core, cwd=folder) as process:
        wait_until_up(process, f"{url}/healthz", START_S)
        models = [{"model": MODEL, "endpoint": f"{bench.engine_url}/v1"}]
        rollouts = [{"input": {}, "rollout_id": f"bench-{number}"} for number in range(ROLLOUTS)]
        post(f"{url}/api/models", msgspec.json.encode(models), headers)
        post(f"{url}/api/rollouts", msgspec.json.encode(rollouts), headers)
        path = "/proxy/rollout/bench-{rollout}/attempt/0/mode/train/openai/v1/chat/completions"
        yield Gateway(
            name="Agent Lightning 1.0",
            engine_sends=OPENAI,
            native=False,
            target=target(url, path, headers),
            process=process,
            most_streams=0,
            note="answers 400 to streaming",
        )


@contextlib.contextmanager
def litellm(bench: Bench, venv: Path) -> Generator[Gateway]:
    """LiteLLM's proxy, one worker, without a database: it forwards and records nothing."""
    core, _ = cores()
    port, folder = free_port(), bench.directory / "litellm"
    folder.mkdir(exist_ok=True)
    parameters = {"model": f"openai/{MODEL}", "api_base": f"{bench.engine_url}/v1", "api_key": "none"}
    settings = {"model_list": [{"model_name": MODEL, "litellm_params": parameters}]}
    (folder / "config.yaml").write_text(json.dumps(settings))  # JSON is YAML
    command = [str(venv / "bin" / "litellm"), "--config", "config.yaml", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--num_workers", "1"]
    env = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "PATH": f"{venv}/bin:{os.environ['PATH']}"}
    with running(command, folder / "proxy.log", on=core, env=env, cwd=folder) as process:
        url = f"http://127.0.0.1:{port}"
        wait_until_up(process, f"{url}/health/liveliness", START_S)
        yield Gateway(
            name="LiteLLM proxy",
            engine_sends=OPENAI,
            native=False,
            target=target(url, CHAT),
            process=process,
            most_plain=64,
            most_streams=16,
        )


def free_port() -> int:
    """Return a port nobody listens on, for servers that cannot choose one themselves."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
