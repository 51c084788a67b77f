"""How many agents that wait one machine holds, what each of them costs, and how near the engine's capacity they come.

    python bench/agents.py [--agents 2000 --latency 2 --slots 600] [--kind official --kind plain --kind command]

The trainer's own rollouts, as a run has them: real runners, judge, ingest and proxy, in front of a scripted engine that
answers each call after `latency` seconds, `slots` of them at a time, as an engine has a largest batch: its capacity is
slots / latency calls a second. Without slots it answers whatever comes, agents / latency a second. Every agent makes
`calls` calls, one after the other, nothing else; there are twice as many rollouts as agents at a time.
"""

import asyncio
import contextlib
import os
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Annotated, Literal

import aiohttp
import msgspec
import psutil
import typer

from gateways.model import model_directory
from gateways.processes import Process, allow_many_connections, module, running
from gateways.wire import Settings
from gateways.workload import make_workload
from nexrl.keys import ADMIN_KEY_VARIABLE, new_admin_key
from nexrl.records import Group, Outcome, Task
from nexrl.rewards import load_rewards
from nexrl_ingest.client import IngestClient
from nexrl_trainer.recipe.agent import Agent
from nexrl_trainer.recipe.tree import Rewards
from nexrl_trainer.rollouts.attempts import Attempts
from nexrl_trainer.rollouts.failures import Failures
from nexrl_trainer.rollouts.judging import Judge
from nexrl_trainer.rollouts.proxy import ProxyClient
from nexrl_trainer.rollouts.quarantine import Quarantine
from nexrl_trainer.rollouts.runners.choosing import runner_of
from nexrl_trainer.rollouts.runners.runner import Services
from nexrl_trainer.services.commands import nexrl as command_of

MANY = Path(__file__).parent / "many"
Kind = Literal["official", "plain", "command"]
GROUP_SIZE = 8
MIB = 1 << 20
ALL = set(os.sched_getaffinity(0))


class Stand(msgspec.Struct, frozen=True, kw_only=True):
    """What stands while all kinds are measured."""

    scratch: Path
    admin_key: str
    processes: dict[str, Process]
    services: Services


@contextlib.contextmanager
def standing(scratch: Path, latency_s: float, slots: int):  # noqa: ANN201 - a generator of Stand
    """Start the engine, ingest and the proxy."""
    key, model = new_admin_key(), model_directory().resolve()
    workload = make_workload(model, scratch)
    environment = {ADMIN_KEY_VARIABLE: key}
    with contextlib.ExitStack() as stack:

        def start(name: str, command: list[str]) -> tuple[Process, str]:
            process = stack.enter_context(running(command, scratch / f"{name}.log", on=ALL, env=environment))
            return process, process.ready()

        engine, engine_url = start("engine", module("engine", str(workload.replies)))
        ingest, ingest_url = start("ingest", command_of(["ingest", "--port", "0", "--data", str(scratch / "ingest")]))
        where = ["--engine", engine_url, "--engine-kind", "sglang", "--ingest", ingest_url, "--model", str(model)]
        proxy, proxy_url = start(
            "proxy", command_of(["proxy", "--port", "0", *where, "--data", str(scratch / "proxy"), "--require-session"])
        )
        asyncio.run(set_pace(engine_url, Settings(delay_s=latency_s, slots=slots)))
        yield Stand(
            scratch=scratch,
            admin_key=key,
            processes={"engine": engine, "ingest": ingest, "proxy": proxy},
            services=Services(proxy=proxy_url, ingest=ingest_url, model="policy"),
        )


async def set_pace(engine: str, settings: Settings) -> None:
    async with aiohttp.ClientSession() as http:
        body = msgspec.json.encode(settings)
        async with http.post(f"{engine}/control", data=body) as reply:
            reply.raise_for_status()


@contextlib.asynccontextmanager
async def attempts_of(
    stand: Stand, kind: Kind, agents: int, calls: int, ended: list[Outcome]
) -> AsyncGenerator[tuple[Attempts, IngestClient]]:
    """Yield what runs the rollouts of one kind, as `run.py` builds it."""
    how = {"command": ["sh", "agent.sh", str(calls)]} if kind == "command" else {"callable": f"agent.py:{kind}"}
    agent = msgspec.convert({**how, "concurrency": agents, "attempts": 1, "timeout_s": 600}, Agent)
    folder = stand.scratch / kind
    folder.mkdir()
    async with contextlib.AsyncExitStack() as stack:
        connector = aiohttp.TCPConnector(limit=0)
        http = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        ingest = IngestClient(stand.services.ingest, stand.admin_key, http)
        rewards = load_rewards(MANY / "reward.py")
        judge = Judge(rewards=rewards, rule=Rewards(), ingest=ingest, folder=folder / "judging")
        runner = runner_of(
            agent,
            recipe_folder=MANY,
            workspaces=folder / "workspaces",
            log=folder / "agents.log",
            services=stand.services,
            say=print,
        )
        yield (
            Attempts(
                agent=agent,
                runner=await stack.enter_async_context(runner),
                judge=await stack.enter_async_context(judge),
                ingest=ingest,
                proxy=ProxyClient(stand.services.proxy, stand.admin_key, http),
                admin_key=stand.admin_key,
                quarantine=Quarantine(None, file=folder / "quarantine.json", say=print),
                failures=Failures(folder / "failures.log"),
                on_outcome=ended.append,
            ),
            ingest,
        )


async def measure(stand: Stand, kind: Kind, agents: int, calls: int, latency_s: float, capacity: float) -> None:
    """Run twice as many rollouts as there are agents, and print what came of them."""
    ended: list[Outcome] = []
    me, before = psutil.Process(), {name: process.cpu_s() for name, process in stand.processes.items()}
    async with attempts_of(stand, kind, agents, calls, ended) as (attempts, ingest):
        empty, own = memory(me), me.cpu_times()
        began = time.monotonic()
        groups = [
            Group(id=f"{kind}-{n}", run=kind, task=Task(id="t", fields={"calls": calls}), size=GROUP_SIZE)
            for n in range(2 * agents // GROUP_SIZE)
        ]
        work = asyncio.gather(*(one(attempts, ingest, group) for group in groups))
        await asyncio.sleep(calls * latency_s / 2)
        waiting, taken = memory(me), agents
        await work
        wall_s = time.monotonic() - began
    # Only now: what agents took is known once their processes have ended.
    now = me.cpu_times()
    cpu = {name: process.cpu_s() - before[name] for name, process in stand.processes.items()}
    cpu["trainer"] = now.user + now.system - own.user - own.system
    cpu["agents"] = now.children_user + now.children_system - own.children_user - own.children_system
    report(kind, ended, taken, calls, capacity, wall_s)
    shown = ", ".join(f"{name} {seconds:.1f}" for name, seconds in cpu.items())
    each = ", ".join(f"{name} {(waiting[name] - empty[name]) / taken / 1024:.0f} KiB" for name in waiting)
    print(f"  CPU seconds: {shown}; of the machine's {wall_s * len(ALL):.0f}\n  memory for each waiting agent: {each}")


async def one(attempts: Attempts, ingest: IngestClient, group: Group) -> None:
    await ingest.put_group(group)
    await attempts.run(group, range(group.size), priority=(0,))


def report(kind: Kind, ended: list[Outcome], agents: int, calls: int, capacity: float, wall_s: float) -> None:
    failed = Counter(outcome.reason for outcome in ended if outcome.status == "failed")
    # The last wave's end and the first one's start wait for nobody: what counts is the whole, both included.
    rate = len(ended) * calls / wall_s
    print(
        f"{kind}: {agents} agents at a time, {len(ended)} rollouts of {calls} calls in {wall_s:.1f} s, "
        f"{failed.total()} failed: {rate:.0f} calls/s of the engine's {capacity:.0f} ({rate / capacity:.0%})"
    )
    for reason, count in failed.most_common(3):
        print(f"  {count} times: {reason}")


def memory(trainer: psutil.Process) -> dict[str, int]:
    """Return the bytes that the trainer and its agents have to themselves: proportional set sizes."""
    agents = 0
    for process in trainer.children(recursive=True):
        with contextlib.suppress(psutil.Error, OSError):
            # The judge's workers and the services are no agents.
            line = " ".join(process.cmdline())
            agents += 0 if "nexrl.rewards.worker" in line or "gateways" in line or "nexrl.cli" in line else pss(process)
    return {"trainer": pss(trainer), "agents": agents}


def pss(process: psutil.Process) -> int:
    lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024


def main(
    agents: Annotated[int, typer.Option(min=8, help="At a time.")] = 2000,
    calls: Annotated[int, typer.Option(min=1, help="Of each agent.")] = 10,
    latency: Annotated[float, typer.Option(min=0.1, help="Seconds until the engine answers.")] = 2.0,
    slots: Annotated[int, typer.Option(min=0, help="Calls that the engine answers at a time; 0: all.")] = 0,
    kind: Annotated[list[str] | None, typer.Option(help="official, plain, command; may be repeated.")] = None,
) -> None:
    """Measure agents that wait."""
    allow_many_connections()
    capacity = min(slots or agents, agents) / latency
    with tempfile.TemporaryDirectory(prefix="nexrl-agents-") as name, standing(Path(name), latency, slots) as stand:
        print(f"{len(ALL)} cores, {psutil.virtual_memory().available / 2**30:.1f} GiB free")
        for item in kind or ["official", "plain", "command"]:
            asyncio.run(measure(stand, msgspec.convert(item, Kind), agents, calls, latency, capacity))


if __name__ == "__main__":
    typer.run(main)
