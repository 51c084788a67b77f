"""All trackers of a run as the loop sees them: lines go in, nothing comes back, and no tracker can stop the run.

Each tracker works in a thread of its own, so that a slow service delays neither training nor the other trackers.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol, Self

import msgspec
from rich.console import Console

from nexrl_trainer.directory import RunDirectory
from nexrl_trainer.files import write_whole
from nexrl_trainer.recipe import Recipe
from nexrl_trainer.tracking import mlflow, tensorboard, wandb
from nexrl_trainer.tracking.redaction import without_secrets
from nexrl_trainer.tracking.tracker import Tracker, measures

CLOSE_S = 60.0
"""What is not sent this long after the run's end is given up."""
IDENTITIES = "trackers.json"


class Start(Protocol):
    """A tracker's `start`: raises ConfigError where it cannot be used."""

    def __call__(
        self, recipe: Recipe, directory: RunDirectory, shown: dict[str, Any], identity: str | None
    ) -> Tracker: ...


STARTS: dict[str, Start] = {"tensorboard": tensorboard.start, "wandb": wandb.start, "mlflow": mlflow.start}
"""By their names in the recipe's `trackers`."""


class Trackers:
    """The trackers that a recipe names; none is fine."""

    def __init__(self, channels: list["Channel"], picture: Path) -> None:
        self._channels = channels
        self._picture = picture

    @classmethod
    def started(cls, recipe: Recipe, directory: RunDirectory, console: Console) -> Self:
        """Start the trackers that the recipe names, each where an earlier start of the run left it.

        Raises ConfigError where one cannot be used.
        """
        file = directory.path / IDENTITIES
        identities = msgspec.json.decode(file.read_bytes(), type=dict[str, str]) if file.is_file() else {}
        shown = without_secrets(recipe, os.environ)
        trackers: dict[str, Tracker] = {}
        with contextlib.ExitStack() as undo:
            for name in recipe.trackers.changed():
                trackers[name] = STARTS[name](recipe, directory, shown, identities.get(name))
                undo.callback(trackers[name].close, None, completed=False)
                # At once: a run that dies now goes on with the same one.
                identities[name] = trackers[name].identity
                write_whole(file, msgspec.json.encode(identities))
            undo.pop_all()
        return cls([Channel(name, tracker, console) for name, tracker in trackers.items()], directory.picture)

    def log(self, metrics: dict[str, Any]) -> None:
        """Pass on a line of metrics.jsonl; returns at once."""
        step, numbers = metrics["step"], measures(metrics)
        for channel in self._channels:
            channel.put(lambda channel=channel: channel.tracker.log(step, numbers))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(completed=kind is None)

    def close(self, *, completed: bool = True) -> None:
        """Send what is left, the reward curve too, and end; `completed` is False where the run may go on later."""
        picture = self._picture if self._picture.is_file() else None
        for channel in self._channels:
            channel.put(lambda channel=channel: channel.tracker.close(picture, completed=completed))
        deadline = time.monotonic() + CLOSE_S
        for channel in self._channels:
            channel.end(deadline)


class Channel:
    """One tracker and its thread; the first failure is said, and then it is tried on."""

    def __init__(self, name: str, tracker: Tracker, console: Console) -> None:
        self.tracker = tracker
        self._name = name
        self._console = console
        self._failed = False
        self._work: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def put(self, work: Callable[[], object]) -> None:
        self._work.put(work)

    def end(self, deadline: float) -> None:
        """Return once everything is done, or at the deadline."""
        self._work.put(None)
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            self._say("it did not take everything in time")

    def _run(self) -> None:
        for work in iter(self._work.get, None):
            try:
                work()
            except Exception as error:  # noqa: BLE001 - a tracker never stops a run
                if not self._failed:
                    self._failed = True
                    self._say(f"{type(error).__name__}: {error}")

    def _say(self, what: str) -> None:
        text = f"tracker {self._name}: {what}. The run goes on; metrics.jsonl has every line"
        self._console.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)
