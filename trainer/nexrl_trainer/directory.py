"""The run directory: everything a run leaves behind, and what it needs to go on.

recipe.yaml    effective recipe            metrics.jsonl   one line a step or evaluation
summary.json   the result                  reward.png      the curve
checkpoints/   step-00003/ ... and best    batches/        what each step was trained on (keep_batches)
ingest/        the store                   logs/           of the services
proxy/         spans not yet delivered     weights/        what the engine reads
version        newest weight version       judging/        rollouts that wait for the rest of their group
trackers.json  and what trackers keep      draws.jsonl     tasks drawn by a curriculum
.lock          while a run uses it            earlier-1/      a start that trained nothing, by another recipe
fingerprints.json  of tasks and reward functions
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
from nexrl_trainer.files import sync, write_whole
from nexrl_trainer.recipe import Recipe, load_recipe, to_yaml
from nexrl_trainer.recipe.changes import differences
from nexrl_trainer.rollouts.planning import Position

StateT = TypeVar("StateT")
EARLIER = "earlier-"


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
    position: Position = Position()
    """How far it has come with its tasks."""
    rates: dict[str, float] = {}
    """What a curriculum has learned about them: success by task id."""


def of_policy(folder: Path, name: str) -> Path:
    """Return where one of several models that learn has its part of a folder: the first is the folder itself."""
    return folder / "policies" / name if name else folder


class RunDirectory:
    """Paths, the checkpoint list, and files that are whole or not there at all."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe_file = path / "recipe.yaml"
        self.metrics_file = path / "metrics.jsonl"
        self.version_file = path / "version"
        self.fingerprints = path / "fingerprints.json"
        self.summary_file = path / "summary.json"
        self.picture = path / "reward.png"
        self.checkpoints = path / "checkpoints"
        self.best = self.checkpoints / "best"
        self.batches = path / "batches"
        self.ingest = path / "ingest"
        self.proxy = path / "proxy"
        self.models_file = self.proxy / "models.json"
        self.policies_file = self.proxy / "policies.json"
        self.logs = path / "logs"
        self.weights = path / "weights"
        self.draws = path / "draws.jsonl"

    @contextlib.contextmanager
    def opened(self, recipe: Recipe) -> Generator[list[str]]:
        """Hold the directory for one run of this recipe; raises ConfigError where that cannot be.

        Yields what the recipe says otherwise than that of an earlier start, which trained nothing: `begin` puts that
        aside, once nothing else is in the way of the run.
        """
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
            changed = self._changed(recipe)
            _drop_torn_line(self.metrics_file)
            yield changed

    def begin(self, recipe: Recipe, changed: list[str]) -> str | None:
        """Make the opened directory that of a run of this recipe; return what is to be said of what was put aside."""
        note = self._put_aside(changed) if changed else None
        write_whole(self.recipe_file, to_yaml(recipe).encode())
        return note

    def latest(self) -> tuple[Path, State] | None:
        """Return the newest checkpoint and its state, or None before the first."""
        folders = self._saved()
        if not folders:
            return None
        return folders[-1], msgspec.json.decode((folders[-1] / "state.json").read_bytes(), type=State)

    @property
    def model(self) -> Path | None:
        """The model that came out: the best checkpoint where that is known, else the newest; None before the first."""
        saved = self._saved()
        return self.best if self.best.exists() else saved[-1] if saved else None

    def draft(self, step: int) -> Path:
        """Return an empty folder to save the checkpoint of a step into; `commit` makes it one."""
        draft = self._draft(step)
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        return draft

    def commit(self, state: State, keep: int) -> None:
        """Make the draft of the state's step a checkpoint, durably; all but the newest `keep` and the best one go."""
        draft, final = self._draft(state.step), self._checkpoint(state.step)
        (draft / "state.json").write_bytes(msgspec.json.encode(state))
        for file in draft.rglob("*"):
            sync(file)
        sync(draft)
        shutil.rmtree(final, ignore_errors=True)
        draft.rename(final)
        sync(self.checkpoints)
        best = self.best.resolve()
        for old in self._saved()[:-keep]:
            if old.resolve() != best:
                shutil.rmtree(old)

    def mark_best(self, step: int) -> None:
        """Let `checkpoints/best` be the checkpoint of that step."""
        draft = self.checkpoints / ".best.draft"
        draft.unlink(missing_ok=True)
        draft.symlink_to(self._checkpoint(step).name)
        draft.rename(self.best)
        sync(self.checkpoints)

    def _saved(self) -> list[Path]:
        return sorted(self.checkpoints.glob("step-*")) if self.checkpoints.is_dir() else []

    def _checkpoint(self, step: int) -> Path:
        return self.checkpoints / f"step-{step:05d}"

    def _draft(self, step: int) -> Path:
        return self.checkpoints / f".step-{step:05d}.draft"

    def note_version(self, version: int) -> None:
        """Write down, before anybody can sample with them, that weights `version` exist."""
        write_whole(self.version_file, f"{version}\n".encode())

    def newest_version(self) -> int:
        """Return the newest weight version that anything may have been sampled with."""
        return int(self.version_file.read_bytes()) if self.version_file.is_file() else 0

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

    def _changed(self, recipe: Recipe) -> list[str]:
        """Return how the recipe differs from that of what is here; raises ConfigError where that has to stay."""
        if not self.recipe_file.is_file():
            if self._left():
                raise ConfigError(f"{self.path} is not empty and holds no run; choose another --run directory")
            return []
        before = load_recipe(self.recipe_file, environment={})
        changed = differences(before, recipe)
        # Sessions are people's, not the recipe's: they come once.
        if changed and (self._trained() or before.sessions):
            raise ConfigError(
                f"{self.path} holds a run whose recipe says otherwise: {'; '.join(changed)}. What is learned "
                "may not change midway (docs/training.md lists what may): choose another --run directory, or "
                "remove this one to begin anew"
            )
        return changed

    def _trained(self) -> bool:
        """Whether there are weights that an earlier start has changed and saved."""
        latest = self.latest()
        return latest is not None and latest[1].trained_tokens > 0

    def _put_aside(self, changed: list[str]) -> str:
        """Move what an earlier start left out of the way, and say so.

        Rollouts of the recipe as it was would else be taken for those of the recipe as it is.
        """
        aside = self.path / f"{EARLIER}{len(list(self.path.glob(f'{EARLIER}*'))) + 1}"
        aside.mkdir()
        # The recipe last: until then the directory holds the run that it held.
        for item in sorted(self._left(), key=lambda item: item == self.recipe_file):
            item.rename(aside / item.name)
        return (
            f"the recipe has changed ({'; '.join(changed)}) and nothing was trained yet: the run begins anew, and "
            f"what was there is in {aside}"
        )

    def _left(self) -> list[Path]:
        """Return what of the directory is about its present run."""
        return [item for item in self.path.iterdir() if item.name != ".lock" and not item.name.startswith(EARLIER)]


def _drop_torn_line(path: Path) -> None:
    """Cut off what a crash left of a line, so that the next one starts on its own."""
    if path.is_file():
        data = path.read_bytes()
        os.truncate(path, data.rfind(b"\n") + 1)
