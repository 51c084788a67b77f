"""Train an example for two steps, as its page says to, and return what its engine sampled and what was trained.

    nexrl-train ──► its own proxy ──► glass ──► python -m nexrl_trainer.engines.embedded

It runs in a copy of `examples/`, whose environments are those that `agent_environments` keeps. Whether the two are the
same is `test_examples.py`'s to say.
"""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from agents_exactness import Sampled, sampled
from agents_glass import Glass
from msgspec import Struct

from nexrl.records import decode
from nexrl_trainer.batches.datums import Datum
from nexrl_trainer.services.process import ServiceProcess

PATIENCE_S = 900
ROLLOUTS = 4
SHORT = (
    "steps=2",
    f"rollouts={{groups_per_step: 1, group_size: {ROLLOUTS}}}",
    # Every group teaches, whatever its rewards: all that was sampled must be in the batches.
    "algorithm={advantage: reinforce_pp}",
    "tasks.heldout=null",
    "agent.attempts=1",
    "agent.timeout_s=600",  # however busy the machine is
)


class Trained(Struct, frozen=True):
    """A run of two steps."""

    sampled: list[Sampled]
    """By the engine, all calls of all rollouts."""
    batches: list[list[Datum]]
    """By step."""
    metrics: list[dict[str, Any]]
    """By step."""


def copied(examples: Path, folder: Path) -> Path:
    """Copy the examples without the environments somebody has made in them; return where they are then."""
    copy = folder / "examples/agents"
    shutil.copytree(examples, copy, ignore=shutil.ignore_patterns(".venv", "node_modules", "__pycache__"))
    (folder / "recipes").symlink_to(examples.parents[1] / "recipes")
    return copy


def train(example: Path, model: Path, cluster: str, folder: Path) -> Trained:
    """Run the recipe of an example on a Ray cluster; raises AssertionError with what was said where it fails."""
    argv = [sys.executable, "-m", "nexrl_trainer.engines.embedded", "--model", str(model), "--port", "0"]
    engine = ServiceProcess("engine", argv, str(folder / "engine.log"), {"OMP_NUM_THREADS": "1"})
    try:
        with Glass(engine.url()) as glass:
            settings = [f"engine={{url: '{glass.url}'}}", f"model={{path: {model}}}", f"ray.address={cluster}"]
            _ran([example / "recipe.yaml", "--run", folder / "run", *SHORT, *settings])
            seen = [sampled(passed) for passed in glass.taken() if passed.path == "/generate"]
    finally:
        engine.stop()
    batches = sorted((folder / "run/batches").glob("*.msgpack"))
    lines = (folder / "run/metrics.jsonl").read_text().splitlines()
    return Trained(
        sampled=seen,
        batches=[decode(path.read_bytes(), list[Datum]) for path in batches],
        metrics=[line for line in map(json.loads, lines) if line["kind"] == "step"],
    )


def _ran(arguments: Iterable[str | Path]) -> None:
    command = [str(Path(sys.executable).with_name("nexrl-train")), *map(str, arguments)]
    process = subprocess.Popen(
        command,
        env={**os.environ, "NO_PROXY": "127.0.0.1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        said, _ = process.communicate(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        said, _ = process.communicate()
        raise AssertionError(f"no end within {PATIENCE_S} s; it said:\n{said}") from None
    assert process.returncode == 0, said


def completions(datums: Iterable[Datum]) -> Counter[Sampled]:
    """Return every stretch of trained tokens, with what stands before it: what the engine must have sampled."""
    return Counter(
        Sampled(tuple(datum.ids[:begin]), tuple(datum.ids[begin:end]), tuple(datum.logprobs[begin:end]))
        for datum in datums
        for begin, end in stretches(datum.loss_mask)
    )


def conversations(calls: list[Sampled]) -> int:
    """Count the calls whose prompt does not begin with another call's prompt and completion."""
    ends = [call.prompt + call.completion for call in calls]
    return sum(not any(call.prompt[: len(end)] == end for end in ends) for call in calls)


def stretches(mask: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Yield (begin, end) of every run of ones. Example: 0 1 1 0 1 -> (1, 3), (4, 5)."""
    begin = None
    for index, flag in enumerate([*mask, 0]):
        if flag and begin is None:
            begin = index
        elif not flag and begin is not None:
            yield begin, index
            begin = None
