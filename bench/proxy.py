"""What `nexrl proxy` costs, against a bare pass-through and other gateways, in one run on loopback.

    python bench/proxy.py [--quick] [--agent-lightning VENV] [--litellm VENV] [--slow | --streams N | --turns N]

A scripted engine process answers prompts of 512 tokens with 128 tokens and their logprobs; a load process makes the
calls. The gateway has one core to itself where there are two. The proxy renders, parses, records, and delivers to a
real `nexrl ingest`. Peers run in virtual environments of their own:

    python3.12 -m venv AL && AL/bin/pip install agentlightning==1.0.2
    python3.12 -m venv LL && LL/bin/pip install 'litellm[proxy]==1.82.6'
"""

import contextlib
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from msgspec import Struct

from gateways import goals, measure, peers, report
from gateways.gateway import Bench, Gateway, Missing, bench
from gateways.measure import KINDS, QUICK, USUAL, Sizes
from gateways.model import model_directory
from gateways.processes import allow_many_connections, cores
from gateways.workload import make_workload

Start = Callable[[], contextlib.AbstractContextManager[Gateway]]
WARM_S = 5.0
REMEDIES = {
    "agent_lightning": "python3.12 -m venv AL && AL/bin/pip install agentlightning==1.0.2; --agent-lightning AL",
    "litellm": "python3.12 -m venv LL && LL/bin/pip install 'litellm[proxy]==1.82.6' (1.82.7 and 1.82.8 carried "
    "malware); --litellm LL",
}


class Sections(Struct, frozen=True, kw_only=True):
    """Which measurements are made."""

    calls: bool
    slow: bool
    streams: bool
    turns: bool


class Runner:
    """Measures gateways one after the other, and says how far it is."""

    def __init__(self, bench: Bench, sizes: Sizes, sections: Sections) -> None:
        self._bench = bench
        self._sizes = sizes
        self._sections = sections
        self._begun = time.monotonic()

    def measure(self, start: Start) -> report.Findings:
        """Start a gateway, make every measurement that makes sense of it, and stop it."""
        with start() as gateway:
            self._say(f"{gateway.name}: started")
            found = report.findings_of(gateway)
            begun, waited = time.monotonic(), gateway.process.waited_s()
            is_engine = gateway.process is self._bench.engine
            warm = measure.of_kind(gateway, USUAL, c=16, seconds=WARM_S, count=self._sizes.warm_calls)
            result, _ = measure.charged(self._bench, gateway, warm)
            if not result.calls:
                raise SystemExit(f"{gateway.name} answers no call: {result.error}")
            if self._sections.calls:
                self._calls(gateway, found, is_engine=is_engine)
            if self._sections.slow:
                found.slow = measure.slow(self._bench, gateway, self._sizes)
                self._say(f"{gateway.name}: 200 ms engine, p50 {found.slow.p50_ms:.1f} ms")
            if gateway.most_streams >= max(self._sizes.concurrency) and not is_engine:
                self._sessions(gateway, found)
            found.said = gateway.report()
            found.waited = (gateway.process.waited_s() - waited) / (time.monotonic() - begun)
        return found

    def _calls(self, gateway: Gateway, found: report.Findings, *, is_engine: bool) -> None:
        if not is_engine:
            found.memory = measure.memory(self._bench, gateway, self._sizes)
            self._say(f"{gateway.name}: {found.memory.kept:.0f} bytes kept a call")
        kinds = KINDS if gateway.name == "nexrl proxy" else (USUAL,)
        say = lambda text: self._say(f"{gateway.name}: {text}")  # noqa: E731
        found.cells = measure.cells(self._bench, gateway, kinds, self._sizes, say)
        shapes = (True, False) if gateway.native else (True,)
        for deltas in shapes if gateway.most_streams else ():
            found.events.append(measure.events(self._bench, gateway, self._sizes, deltas=deltas))
            self._say(f"{gateway.name}: {found.events[-1].cpu_us:.1f} us of CPU a streamed event")

    def _sessions(self, gateway: Gateway, found: report.Findings) -> None:
        if self._sections.streams:
            found.streams = measure.many_streams(self._bench, gateway, self._sizes)
            self._say(f"{gateway.name}: {found.streams.asked} streams, {found.streams.errors} errors")
        if self._sections.turns:
            found.turns = measure.turns(self._bench, gateway, self._sizes)
            self._say(f"{gateway.name}: a turn {found.turns.short_ms:.2f} ms, a late one {found.turns.last_ms:.2f} ms")

    def _say(self, text: str) -> None:
        print(f"[{time.monotonic() - self._begun:4.0f} s] {text}", file=sys.stderr, flush=True)


def all_of(bench: Bench, sizes: Sizes, sections: Sections, venvs: dict[str, Path | None]) -> report.All:
    """Measure everything."""
    runner = Runner(bench, sizes, sections)
    made = {"agent_lightning": peers.agent_lightning, "litellm": peers.litellm}
    names = {"agent_lightning": "Agent Lightning 1.0", "litellm": "LiteLLM proxy"}
    return report.All(
        native=runner.measure(lambda: peers.direct(bench, native=True)),
        chat=runner.measure(lambda: peers.direct(bench, native=False)),
        floor=runner.measure(lambda: peers.passthrough(bench)),
        ours=runner.measure(lambda: peers.nexrl(bench)),
        peers={
            names[kind]: runner.measure(lambda start=made[kind], venv=venv: start(bench, venv))
            for kind, venv in venvs.items()
            if venv
        },
        missing=[Missing(name=names[kind], remedy=REMEDIES[kind]) for kind, venv in venvs.items() if not venv],
    )


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Everything small: under two minutes.")] = False,
    agent_lightning: Annotated[Path | None, typer.Option(help="Virtual environment with agentlightning 1.0.")] = None,
    litellm: Annotated[Path | None, typer.Option(help="Virtual environment with litellm[proxy].")] = None,
    slow: Annotated[bool, typer.Option("--slow", help="Measure only a 200 ms engine.")] = False,
    streams: Annotated[int | None, typer.Option(help="Measure only so many streams at once.", min=1)] = None,
    turns: Annotated[int | None, typer.Option(help="Measure only sessions of so many turns.", min=12)] = None,
    model: Annotated[
        Path | None, typer.Option(help="Directory with tokenizer, template and config. [default: Qwen3's, by npm]")
    ] = None,
) -> None:
    """Measure the proxy beside its floor and its peers."""
    allow_many_connections()
    everything = not (slow or streams or turns)
    sections = Sections(
        calls=everything, slow=everything or slow, streams=bool(everything or streams), turns=bool(everything or turns)
    )
    base = QUICK if quick else Sizes()
    sizes = msgspec.structs.replace(base, streams=streams or base.streams, turns=turns or base.turns)
    directory = (model or model_directory()).resolve()
    with tempfile.TemporaryDirectory(prefix="nexrl-bench-") as scratch:
        workload = make_workload(directory, Path(scratch))
        gateway_core, others = cores()
        print(
            f"Python {platform.python_version()}, {os.cpu_count()} cores: gateway on {sorted(gateway_core)}, "
            f"engine, load and ingest on {sorted(others)}; tokenizer {directory.name}"
        )
        print(", ".join(f"{name} {size}" for name, size in workload.sizes.items()))
        with bench(workload, directory, Path(scratch)) as stand:
            found = all_of(stand, sizes, sections, {"agent_lightning": agent_lightning, "litellm": litellm})
    print("\n".join([*report.printed(found), *goals.goals(found)]))


if __name__ == "__main__":
    typer.run(main)
