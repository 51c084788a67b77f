"""The run directory: everything a run leaves behind, and what it needs to go on.

recipe.yaml    effective recipe            metrics.jsonl   one line a step or evaluation
summary.json   the result                  reward.png      the curve
checkpoints/   step-00003/ ...             batches/        what each step was trained on (keep_batches)
ingest/        the store                   logs/           of the services
proxy/         spans not yet delivered     weights/        what the engine reads
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from nexrl.errors import ConfigError
from nexrl_trainer.recipe import Recipe, load_recipe, to_yaml

StateT = TypeVar("StateT")
MAY_CHANGE = frozenset({"steps", "folder"})
"""What a resumed run may say differently from the first one."""


class State(Struct, frozen=True, kw_only=True):
    """Where a run stands, as of a checkpoint."""

    step: int = 0
    """Steps done; the next one has this number."""
    version: int = 0
    """Weight version the engine sampled the next step with."""
    trained_tokens: int = 0
    drift: int = 0
    """Calls that opened a new chain although they could have extended one, so far."""
    wall_s: float = 0.0
    """Seconds spent so far, earlier starts included."""
    success_before: float | None = None


class RunDirectory:
    """Paths, the checkpoint list, and files that are whole or not there at all."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe_file = path / "recipe.yaml"
        self.metrics_file = path / "metrics.jsonl"
        self.summary_file = path / "summary.json"
        self.picture = path / "reward.png"
        self.checkpoints = path / "checkpoints"
        self.batches = path / "batches"
        self.ingest = path / "ingest"
        self.proxy = path / "proxy"
        self.logs = path / "logs"
        self.weights = path / "weights"

    @contextlib.contextmanager
    def opened(self, recipe: Recipe) -> Generator[None]:
        """Hold the directory for one run of this recipe; raises ConfigError where that cannot be."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock_file = (self.path / ".lock").open("w")
        except OSError as error:
            raise ConfigError(f"run directory {self.path}: {error.strerror}; choose another --run") from error
        with lock_file as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(f"{self.path}: another nexrl-train is using it; choose another --run") from None
            self._claim(recipe)
            yield

    def latest(self) -> tuple[Path, State] | None:
        """Return the newest checkpoint and its state, or None before the first."""
        folders = sorted(self.checkpoints.glob("step-*")) if self.checkpoints.is_dir() else []
        if not folders:
            return None
        return folders[-1], msgspec.json.decode((folders[-1] / "state.json").read_bytes(), type=State)

    @contextlib.contextmanager
    def checkpoint(self, state: State, keep: int) -> Generator[Path]:
        """Yield a folder to save into; it becomes a checkpoint, durably, only when the block ends well."""
        final = self.checkpoints / f"step-{state.step:05d}"
        draft = self.checkpoints / f".{final.name}.draft"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        yield draft
        (draft / "state.json").write_bytes(msgspec.json.encode(state))
        for file in draft.rglob("*"):
            _sync(file)
        _sync(draft)
        shutil.rmtree(final, ignore_errors=True)
        draft.rename(final)
        _sync(self.checkpoints)
        for old in sorted(self.checkpoints.glob("step-*"))[:-keep]:
            shutil.rmtree(old)

    def log(self, metrics: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        with self.metrics_file.open("ab") as file:
            file.write(msgspec.json.encode(metrics) + b"\n")

    def metrics(self) -> list[dict[str, Any]]:
        """Return what has been logged; a resumed run's repeated step stands once, as it went last."""
        if not self.metrics_file.is_file():
            return []
        lines = [msgspec.json.decode(line, type=dict[str, Any]) for line in self.metrics_file.read_bytes().splitlines()]
        return list({(line["kind"], line["step"]): line for line in lines}.values())

    def _claim(self, recipe: Recipe) -> None:
        if self.recipe_file.is_file():
            before = load_recipe(self.recipe_file, environment={})
            if changed := _differences(msgspec.to_builtins(before), msgspec.to_builtins(recipe)):
                raise ConfigError(
                    f"{self.path} holds a run whose recipe says otherwise: {'; '.join(changed)}. "
                    "Only `steps` may change when a run goes on; choose another --run directory"
                )
        elif any(item.name != ".lock" for item in self.path.iterdir()):
            raise ConfigError(f"{self.path} is not empty and holds no run; choose another --run directory")
        write_whole(self.recipe_file, to_yaml(recipe).encode())
        _drop_torn_line(self.metrics_file)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new one."""
    draft = path.with_name(f".{path.name}.draft")
    draft.write_bytes(data)
    _sync(draft)
    draft.rename(path)


def _differences(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    found: list[str] = []
    for key, new in now.items():
        name, old = f"{prefix}{key}", before.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += _differences(old, new, f"{name}.")
        elif old != new and name not in MAY_CHANGE:
            found.append(f"{name} was {old!r}, is {new!r}")
    return found


def _drop_torn_line(path: Path) -> None:
    """Cut off what a crash left of a line, so that the next one starts on its own."""
    if path.is_file():
        data = path.read_bytes()
        os.truncate(path, data.rfind(b"\n") + 1)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
