"""The table of `nexrl sessions`, fitted to a terminal: names, which people copy, stay whole, other columns give way."""

from collections.abc import Iterable, Sequence

from msgspec import Struct
from rich.table import Table
from rich.text import Text

from nexrl.records import Trajectory
from nexrl_ingest.assembly.measuring import counts, measures
from nexrl_ingest.commands.sources import Recorded
from nexrl_ingest.groups import ledger

STATUS_STYLES = {"completed": "green", "failed": "red", "open": "yellow"}
FIRST_TO_GO = ("sequences", "merge", "drift", "tags", "sampled/tokens", "calls", "reward")
_WORD = 9
"""Cells that what is folded keeps at least: `completed` fits."""
_BORDER = 3


class Column(Struct, frozen=True, kw_only=True):
    """A column and what stands in it, row by row."""

    name: str
    cells: list[Text]
    folds: int | None = None
    """Cells it may be folded to; None keeps it whole."""
    right: bool = False

    @property
    def least(self) -> int:
        """Cells it needs."""
        longest = max(cell.cell_len for cell in self.cells)
        return max(len(self.name), longest if self.folds is None else min(longest, self.folds))


def fitted(found: Sequence[Recorded], width: int) -> tuple[Table, list[str]]:
    """Return the table in `width` cells and the columns left out for want of them; wider where names alone are."""
    columns = {column.name: column for column in _columns(found)}
    left_out: list[str] = []
    while _least(columns.values()) > width and (going := [name for name in FIRST_TO_GO if name in columns]):
        left_out.append(columns.pop(going[0]).name)
    least = _least(columns.values())
    table = Table(width=least if least > width else None)
    for column in columns.values():
        table.add_column(
            column.name,
            justify="right" if column.right else "left",
            overflow="fold",
            no_wrap=column.folds is None,
            min_width=column.least,
        )
    for row in zip(*(column.cells for column in columns.values()), strict=True):
        table.add_row(*row)
    return table, left_out


def status_of(trajectory: Trajectory) -> Text:
    """Return the status in its colour, with the reason where there is one."""
    reason = f" ({trajectory.reason})" if trajectory.reason else ""
    return Text(trajectory.status + reason, style=STATUS_STYLES[trajectory.status])


def rewards_of(trajectory: Trajectory) -> Text:
    """Return the rewards by name; `-` where there are none."""
    return Text(" ".join(f"{name}={value:g}" for name, value in ledger.named(trajectory.rewards).items()) or "-")


def _columns(found: Sequence[Recorded]) -> list[Column]:
    measured = [measures([counts(one.calls, one.trajectory)]) for one in found]
    laid = [one.trajectory for one in found]
    merges = ["-" if item.merge_ratio is None else f"{item.merge_ratio:.1f}" for item in measured]
    drifts = [", ".join(sorted({item.reason for item in one.drift})) or "-" for one in laid]
    rewards = [rewards_of(one) for one in laid]
    columns = [
        Column(name="session", cells=[Text(one.session) for one in laid]),
        Column(name="status", cells=[status_of(one) for one in laid], folds=_WORD),
        Column(name="reward", cells=rewards, folds=max(len(word) for text in rewards for word in text.plain.split())),
        Column(name="calls", cells=[Text(str(item.calls)) for item in measured], right=True),
        Column(name="sequences", cells=[Text(str(item.sequences)) for item in measured], right=True),
        Column(name="merge", cells=[Text(text) for text in merges], right=True),
        Column(name="sampled/tokens", cells=[Text(f"{item.trained}/{item.tokens}") for item in measured], right=True),
        Column(name="drift", cells=[Text(text) for text in drifts], folds=_WORD),
    ]
    if any(one.tags for one in found):
        tags = [" ".join(f"{name}={value}" for name, value in one.tags.items()) or "-" for one in found]
        columns.append(Column(name="tags", cells=[Text(text) for text in tags], folds=_WORD))
    return columns


def _least(columns: Iterable[Column]) -> int:
    """Count the cells that columns need, borders and padding included."""
    return sum(column.least + _BORDER for column in columns) + 1
