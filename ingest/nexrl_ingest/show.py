"""`nexrl sessions` and `nexrl trajectories`: what was captured, as pictures in the terminal.

Read-only, straight from the file, so that it works beside a running ingest and after it.
"""

import contextlib
import sqlite3
from collections.abc import Callable, Generator
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from nexrl.errors import ConfigError
from nexrl.records import Sequence, Trajectory
from nexrl_ingest import ledger
from nexrl_ingest.schema import open_read_only
from nexrl_ingest.span_log import count_calls
from nexrl_ingest.store import FILE

STATUS_STYLES = {"completed": "green", "failed": "red", "open": "yellow"}
TRAINED, CONTEXT = "bold green", "dim"
Decoder = Callable[[list[int]], str]
Directory = Annotated[Path, typer.Argument(help="Data directory of ingest, or a run directory.")]


def sessions(
    directory: Directory,
    limit: Annotated[int, typer.Option(help="Show this many, the latest last.", min=1)] = 50,
) -> None:
    """List captured sessions with their status, rewards, calls, tokens and drift."""
    with _database(directory) as connection:
        ids = _latest_sessions(connection, limit)
        rows = [(count_calls(connection, id_), ledger.trajectory_of(connection, id_)) for id_ in ids]
    Console().print(_table(directory, rows))


def trajectories(
    directory: Directory,
    session: Annotated[str | None, typer.Argument(help="Session to show; the latest ones where none is given.")] = None,
    limit: Annotated[int, typer.Option(help="Without a session, show this many.", min=1)] = 3,
    model: Annotated[
        Path | None, typer.Option(help="Directory with the tokenizer; a run's own by default, ids are shown without.")
    ] = None,
) -> None:
    """Show sequences as text, the trained tokens in colour."""
    decode = _decoder(model or _newest_checkpoint(directory))
    with _database(directory) as connection:
        ids = [session] if session else _latest_sessions(connection, limit)
        found = [ledger.trajectory_of(connection, id_) for id_ in ids]
    for trajectory in found:
        Console().print(_panel(trajectory, decode))


@contextlib.contextmanager
def _database(directory: Path) -> Generator[sqlite3.Connection]:
    candidates = [directory / FILE, directory / "ingest" / FILE]
    path = next((path for path in candidates if path.is_file()), candidates[0])
    with contextlib.closing(open_read_only(path)) as connection:
        connection.execute("BEGIN")
        yield connection


def _latest_sessions(connection: sqlite3.Connection, limit: int) -> list[str]:
    query = (
        "SELECT session FROM (SELECT session, max(seq) AS latest FROM spans WHERE session IS NOT NULL AND is_call = 1 "
        "GROUP BY session ORDER BY latest DESC LIMIT ?) ORDER BY latest"
    )
    return [session for [session] in connection.execute(query, (limit,))]


def _table(directory: Path, rows: list[tuple[int, Trajectory]]) -> Table:
    table = Table(title=f"sessions in {directory}", title_justify="left")
    for name, justify in _COLUMNS:
        table.add_column(name, justify=justify, overflow="fold")
    for calls, trajectory in rows:
        trained, total = _tokens(trajectory)
        table.add_row(
            Text(trajectory.session),
            _status(trajectory),
            Text(_rewards(trajectory)),
            str(calls),
            str(len(trajectory.sequences)),
            f"{trained}/{total}",
            Text(", ".join(sorted({item.reason for item in trajectory.drift})) or "-"),
        )
    return table


_COLUMNS: list[tuple[str, Any]] = [
    ("session", "left"),
    ("status", "left"),
    ("reward", "left"),
    ("calls", "right"),
    ("sequences", "right"),
    ("trained/tokens", "right"),
    ("drift", "left"),
]


def _panel(trajectory: Trajectory, decode: Decoder) -> Panel:
    body = Text()
    for number, sequence in enumerate(trajectory.sequences):
        agent = f", agent {sequence.agent}" if sequence.agent else ""
        heading = f"sequence {number}: {len(sequence.ids)} tokens, {sum(sequence.loss_mask)} trained{agent}\n"
        body.append(heading, style="bold")
        body.append_text(coloured(sequence, decode)).append("\n")
    if not trajectory.sequences:
        body.append("no sequence can be laid out\n", style="yellow")
    for item in trajectory.drift:
        body.append(f"drift: call {item.call}: {item.reason}\n", style="yellow")
    title = Text.assemble(trajectory.session, " ", _status(trajectory), " ", _rewards(trajectory))
    return Panel(body, title=title, title_align="left")


def coloured(sequence: Sequence, decode: Decoder) -> Text:
    """Return a sequence's text, what is trained set off from its context."""
    text = Text()
    for trained, pairs in groupby(zip(sequence.loss_mask, sequence.ids, strict=True), key=lambda pair: pair[0]):
        text.append(decode([token for _, token in pairs]), style=TRAINED if trained else CONTEXT)
    return text


def _status(trajectory: Trajectory) -> Text:
    reason = f" ({trajectory.reason})" if trajectory.reason else ""
    return Text(trajectory.status + reason, style=STATUS_STYLES[trajectory.status])


def _rewards(trajectory: Trajectory) -> str:
    return " ".join(f"{name}={value:g}" for name, value in ledger.named(trajectory.rewards).items()) or "-"


def _tokens(trajectory: Trajectory) -> tuple[int, int]:
    trained = sum(sum(sequence.loss_mask) for sequence in trajectory.sequences)
    return trained, sum(len(sequence.ids) for sequence in trajectory.sequences)


def _newest_checkpoint(directory: Path) -> Path | None:
    """Return where a run directory has its tokenizer, None where this is no run directory or has none yet."""
    found = sorted(directory.glob("checkpoints/step-*/tokenizer.json"))
    return found[-1].parent if found else None


def _decoder(model: Path | None) -> Decoder:
    if model is None:
        return lambda ids: " ".join(map(str, ids)) + " "
    from tokenizers import Tokenizer

    path = model / "tokenizer.json"
    if not path.is_file():
        raise ConfigError(f"--model {model}: no tokenizer.json there; give a model directory in Hugging Face layout")
    tokenizer = Tokenizer.from_file(str(path))
    return lambda ids: tokenizer.decode(ids, skip_special_tokens=False)
