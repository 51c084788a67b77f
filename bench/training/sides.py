"""Trainers as processes: started one after the other, asked for steps in turn, each wait with a deadline."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path

BENCH = Path(__file__).parents[1]
START_S, STEP_S, STOP_S = 240.0, 240.0, 10.0


@dataclass(frozen=True)
class Side:
    """A trainer: its module, and the Python that has what it needs."""

    name: str
    module: str
    python: Path = field(default_factory=lambda: Path(sys.executable))
    packages: Path | None = None
    """A folder of packages that this Python lacks."""


@dataclass
class Measured:
    """What a side's rounds were."""

    seconds: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    """A trainer's losses; of the floor, the seconds of a step; the round that warms up included."""
    peak_gb: float = 0.0


class Running:
    """A side's process."""

    def __init__(self, side: Side, process: Process, log: Path) -> None:
        self._side, self._process, self._log = side, process, log
        self.measured = Measured()

    async def step(self, *, counted: bool) -> None:
        """Have it make a step; what is not counted warms it up."""
        assert self._process.stdin
        self._process.stdin.write(b"\n")
        answer = await self.answer(STEP_S)
        self.measured.values.append(answer["value"])
        self.measured.peak_gb = answer["peak_gb"]
        if counted:
            self.measured.seconds.append(answer["seconds"])

    async def answer(self, deadline_s: float) -> dict[str, float]:
        """Return its next answer; ends the benchmark, with what it wrote, where none comes."""
        assert self._process.stdout
        line = b""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline_s):
                # What libraries print while they are imported stands among the answers.
                while (line := await self._process.stdout.readline()) and not line.startswith(b"{"):
                    pass
        if not line.startswith(b"{"):
            said = self._log.read_text(errors="replace")[-2000:]
            raise SystemExit(f"{self._side.name}: ended, or gave no answer within {deadline_s:g} s; it wrote:\n{said}")
        return json.loads(line)


@contextlib.asynccontextmanager
async def running(side: Side, folder: Path) -> AsyncGenerator[Running]:
    """Start a side on the model and group in the folder; stop it afterwards."""
    log = folder / f"{side.module}.log"
    paths = [str(BENCH), *([str(side.packages)] if side.packages else [])]
    settings = {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *(str(side.python), "-m", side.module, str(folder)),
            stdin=PIPE,
            stdout=PIPE,
            stderr=errors,
            env=os.environ | settings,
            cwd=folder,
        )
    try:
        found = Running(side, process, log)
        await found.answer(START_S)
        yield found
    finally:
        if process.stdin:
            process.stdin.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), STOP_S)
        if process.returncode is None:
            process.kill()
            await process.wait()


def lacks(side: Side, package: str) -> bool:
    """Say whether a side's Python cannot find a package."""
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({package!r}) is None)"
    return subprocess.run([side.python, "-c", code], check=False, capture_output=True, timeout=START_S).returncode != 0
