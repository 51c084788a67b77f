"""One step of GRPO on the same rollouts: NexRL, TRL, a plain loop, and the floor that arithmetic sets, side by side.

    python bench/trainer.py [--quick] [--rounds N] [--trl PYTHON]

A Llama of 4.7 M parameters in float32, one thread each. A step is forward, loss, backward, clip, AdamW. Each trainer
is a process; they take turns, round by round, so that a busy machine is unfair to nobody. TRL is taken from where
`make test-parity` puts it, or from another Python:

    python3 -m venv TRL && TRL/bin/pip install torch trl; --trl TRL/bin/python
"""

import asyncio
import contextlib
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from training.report import FLOOR, OURS, PLAIN, TRL, printed, refuse_different_losses
from training.sides import Measured, Side, lacks, running
from training.workload import Rollout, Workload, rollouts, write_group, write_model

GOALS = {Workload(prompt=256, group=4): 2.0, Workload(prompt=1024, group=8): 4.0}
"""Workloads, and how many times TRL's speed we want in each."""
QUICK = {Workload(prompt=64, group=4, shortest=40, longest=64): 2.0}
MISSING = "TRL: not measured; `make test-parity` installs it, or give a Python that has it: --trl PYTHON"


async def measured(workload: Workload, group: list[Rollout], sides: list[Side], rounds: int) -> dict[str, Measured]:
    """Return what each side took for a step on these rollouts."""
    with tempfile.TemporaryDirectory(prefix="nexrl-bench-") as name:
        folder = Path(name)
        write_model(folder)
        write_group(group, folder)
        async with contextlib.AsyncExitStack() as stack:
            started = {side.name: await stack.enter_async_context(running(side, folder)) for side in sides}
            for turn in range(rounds + 1):
                begun = time.monotonic()
                for one in started.values():
                    await one.step(counted=turn > 0)
                seconds = time.monotonic() - begun
                print(f"{workload.name}: round {turn} of {rounds}, {seconds:.1f} s", file=sys.stderr, flush=True)
    found = {name: one.measured for name, one in started.items()}
    refuse_different_losses(found)
    return found


def side_of_trl(python: Path | None) -> Side | None:
    """Return TRL's side: in the Python given, or in this one with what the parity tests installed; None without."""
    module = "training.peer_trl"
    if python:
        side = Side(TRL, module, python.absolute())
        if lacks(side, "trl"):
            raise SystemExit(f"--trl {python}: this Python has no package `trl`; {python} -m pip install trl")
        return side
    cache = Path(os.environ.get("NEXRL_PARITY_CACHE") or Path.home() / ".cache/nexrl/parity")
    folders = sorted(cache.glob("*/.complete"), key=lambda item: item.stat().st_mtime)
    return Side(TRL, module, packages=folders[-1].parent) if folders else None


async def all_of(workloads: dict[Workload, float], rounds: int, peer: Side | None) -> None:
    """Measure every workload, and print what came out."""
    sides = [Side(OURS, "training.ours"), *([peer] if peer else [])]
    sides += [Side(PLAIN, "training.plain"), Side(FLOOR, "training.floor")]
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, one thread each; {rounds} rounds")
    for workload, goal in workloads.items():
        group = rollouts(workload)
        found = await measured(workload, group, sides, rounds)
        print("\n".join(printed(workload, group, found, goal)), flush=True)
    if not peer:
        print(MISSING)


def main(
    quick: Annotated[bool, typer.Option("--quick", help="One small workload, two rounds: under a minute.")] = False,
    rounds: Annotated[int, typer.Option(help="Steps of each side, after one that warms up.", min=1)] = 5,
    trl: Annotated[
        Path | None,
        typer.Option(help="A Python that has TRL; without, this one, with what `make test-parity` installed."),
    ] = None,
) -> None:
    """Measure a step of GRPO by NexRL beside TRL, a plain loop and the matmul floor."""
    asyncio.run(all_of(QUICK if quick else GOALS, 2 if quick else rounds, side_of_trl(trl)))


if __name__ == "__main__":
    typer.run(main)
