"""What people see while a run runs: one live picture in a terminal, one line a step elsewhere."""

import time
from collections import Counter
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from nexrl.records import Outcome
from nexrl_trainer.measuring import contrast, mostly_greedy, several

SHOWN_STEPS = 12
BAR_WIDTH = 20

_COLUMNS = (
    "step",
    "reward",
    "",
    "sampled tok/s",
    "staleness",
    "KL to engine",
    "entropy",
    "no contrast",
    "failed",
    "s",
)


class Progress:
    """Told by the loop what happens; shows reward, tokens/s, staleness, failures and the time left."""

    def __init__(self, console: Console, steps: int, done: int) -> None:
        self._console = console
        self._steps = steps
        self._first = done
        self._rows: list[tuple[int, dict[str, Any]]] = []
        self._successes: dict[int, float] = {}
        self._failures: Counter[str] = Counter()
        self._notes: list[str] = []
        self._waiting = ""
        self._told_greedy = False
        self._began = 0.0
        """When the first step did: what comes before it is not part of a step."""
        self._phase = Bars(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._current = self._phase.add_task("starting", total=None)
        self._live = Live(console=console, refresh_per_second=4, get_renderable=self._picture)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def phase(self, name: str, total: int) -> None:
        """Begin something that counts up to `total`; 0 where nobody can tell."""
        self._phase.reset(self._current, total=total or None, description=name)
        self._say(f"{name} ...")

    def waiting(self, text: str) -> None:
        """Say what is waited for, where that has changed."""
        if text != self._waiting:
            self._waiting = text
            self._phase.update(self._current, description=text)
            self._say(text)

    def rollout(self, outcome: Outcome) -> None:
        """Note a rollout's final outcome."""
        self._phase.advance(self._current)
        if outcome.status == "failed":
            self._failures[outcome.reason] += 1
            self._say(f"rollout failed: {outcome.reason}")

    def step(self, step: int, metrics: dict[str, Any]) -> None:
        """Note a finished step."""
        if not self._rows:
            self._began = time.monotonic() - _seconds(metrics)
        self._rows.append((step, metrics))
        self._say(f"step {step}/{self._steps}: {step_line(metrics)}, {self._time_left()}")
        if not self._told_greedy and (greedy := mostly_greedy(metrics)):
            self._told_greedy = True
            self.note(greedy)

    def evaluated(self, step: int, success: float) -> None:
        """Note how the held-out tasks went after `step` steps."""
        self._successes[step] = success
        self._say(f"held-out success after {several(step, 'step')}: {success:.2f}")

    def stopped_early(self, step: int) -> None:
        """Note that the held-out tasks do not get better any more."""
        self._say(f"stopped early after {several(step, 'step')}: evaluation.patience is used up")

    def note(self, text: str) -> None:
        """Tell of something that happened to the run itself."""
        self._notes.append(text)
        self._say(text)

    def _say(self, line: str) -> None:
        if not self._console.is_terminal:
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _time_left(self) -> str:
        done = self._rows[-1][0] - self._first if self._rows else 0
        if not done:
            return "time left: not known yet"
        seconds = (time.monotonic() - self._began) / done * (self._steps - self._rows[-1][0])
        return f"about {seconds / 60:.0f} min left" if seconds >= 90 else f"about {seconds:.0f} s left"  # noqa: PLR2004

    def _picture(self) -> Group:
        table = Table(expand=False)
        for name in _COLUMNS:
            table.add_column(name, justify="left" if not name else "right")
        for step, metrics in self._rows[-SHOWN_STEPS:]:
            table.add_row(str(step), *_cells(metrics))
        successes = ", ".join(f"{value:.2f} after {step}" for step, value in self._successes.items())
        notes = [Text(f"held-out success: {successes}")] if successes else []
        notes += [Text(text[:200], "yellow") for text in self._notes[-3:]]
        notes += [Text(f"{n} failed: {reason}"[:200], "yellow") for reason, n in self._failures.most_common(3)]
        return Group(table, *notes, Text(self._time_left(), "dim"), self._phase)


def step_line(metrics: dict[str, Any]) -> str:
    """Return a step in one line."""
    reward = "-" if metrics["reward"] is None else f"{metrics['reward']:.3f}"
    without, groups = contrast(metrics)
    return (
        f"reward {reward}, {_rate(metrics)} sampled tokens/s, "
        f"staleness {metrics['staleness_mean']:.1f}, {without} of {several(groups, 'group')} without contrast, "
        f"{metrics['failed']} failed, {_seconds(metrics):.1f} s"
    )


def _seconds(metrics: dict[str, Any]) -> float:
    return metrics["rollout_s"] + metrics["train_s"] + metrics["publish_s"]


def _rate(metrics: dict[str, Any]) -> str:
    rate = metrics["sampled_tokens_per_s"]
    return "-" if rate is None else f"{rate:.0f}"


def _cells(metrics: dict[str, Any]) -> list[str]:
    reward = metrics["reward"]
    return [
        "-" if reward is None else f"{reward:.3f}",
        "█" * round(BAR_WIDTH * min(max(reward or 0.0, 0.0), 1.0)),
        _rate(metrics),
        f"{metrics['staleness_mean']:.1f}",
        f"{metrics['kl_engine']:.4f}" if "kl_engine" in metrics else "-",
        f"{metrics['entropy']:.3f}" if "entropy" in metrics else "-",
        "{}/{}".format(*contrast(metrics)),
        str(metrics["failed"]),
        f"{_seconds(metrics):.1f}",
    ]
