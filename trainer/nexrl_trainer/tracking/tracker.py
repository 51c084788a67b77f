"""What a tracker is: the small protocol each one's file implements, and what it is told of a line of metrics.jsonl."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

KINDS = {"step": "train", "evaluation": "evaluation"}
"""What a line's measures are grouped under, by its kind."""


class Tracker(Protocol):
    """One run at one tracker; its file's `start` makes it. Called from one thread at a time."""

    @property
    def identity(self) -> str:
        """What the tracker calls the run; a resumed run is started with it again."""
        ...

    def log(self, step: int, measures: Mapping[str, float]) -> None: ...

    def close(self, picture: Path | None, *, completed: bool) -> None:
        """Attach the reward curve where there is one, and say that the run ended well, or may go on later."""
        ...


def measures(line: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a line of metrics.jsonl; what is no finite number is no point of a curve.

    Example: {"kind": "step", "step": 3, "reward": 0.5, "dropped": {"stale": 2}, "best": None}
             -> {"train/reward": 0.5, "train/dropped/stale": 2.0}
    """
    group = KINDS.get(line["kind"], line["kind"])
    return _numbers({key: value for key, value in line.items() if key not in {"kind", "step"}}, f"{group}/")


def _numbers(values: Mapping[str, Any], prefix: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= _numbers(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and math.isfinite(value):
            found[f"{prefix}{key}"] = float(value)
    return found
