"""`nexrl sessions` and `nexrl trajectories`: what was captured, as pictures in the terminal.

Read-only: from the file, beside a running ingest and after it, or over HTTP.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer
from msgspec import structs
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from nexrl.errors import ConfigError
from nexrl.records import Sequence, Trajectory
from nexrl_ingest.assembly import sequences
from nexrl_ingest.assembly.measuring import counts, measures
from nexrl_ingest.commands.sources import Recorded, opened, recorded
from nexrl_ingest.groups import ledger

STATUS_STYLES = {"completed": "green", "failed": "red", "open": "yellow"}
TRAINED, CONTEXT = "bold green", "dim"
_SHOWN_ID = 8
Decoder = Callable[[list[int]], str]
Where = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="Data directory of ingest, a run directory, or the URL of a running ingest (key in NEXRL_ADMIN_KEY).",
    ),
]


def sessions(
    source: Where,
    limit: Annotated[int, typer.Option(help="Show this many, the latest last.", min=1)] = 50,
) -> None:
    """List captured sessions: status, rewards, calls, how well they merged, what is trained, and drift.

    merge: calls per sequence, 1 where no call extends another. drift: calls that should have extended one and did not.

    Example: nexrl sessions runs/short --limit 10
    """
    found = asyncio.run(_captured(source, None, limit))
    Console().print(_table(source, found) if found else _nothing(source))


def trajectories(
    source: Where,
    session: Annotated[str | None, typer.Argument(help="Session to show; the latest ones where none is given.")] = None,
    limit: Annotated[int, typer.Option(help="Without a session, show this many.", min=1)] = 3,
    model: Annotated[
        Path | None, typer.Option(help="Directory with the tokenizer; a run's own by default, ids are shown without.")
    ] = None,
) -> None:
    """Show sessions as trees of chains and as text, the trained tokens in colour, or between ⟦ and ⟧ without colours.

    Example: nexrl trajectories http://127.0.0.1:4318 my-attempt --model models/qwen3
    """
    decode = _decoder(model or _newest_checkpoint(Path(source)))
    found = asyncio.run(_captured(source, session, limit))
    if not found:
        Console().print(_nothing(source))
    for one in found:
        console = Console()
        console.print(_panel(one, decode, marks=console.color_system is None))


async def _captured(source: str, session: str | None, limit: int) -> list[Recorded]:
    """Read one session, or the latest ones with model calls, the latest last."""
    async with opened(source) as where:
        chosen = await where.sessions(session=session, limit=limit)
        if session and not chosen:
            raise ConfigError(f"session {session!r} is not in {source}; `nexrl sessions {source}` lists what is")
        found = [(one, await recorded(where, one.session, one.group)) for one in reversed(chosen)]
        return [structs.replace(item, tags=one.tags) for one, item in found]


def _table(source: str, found: list[Recorded]) -> Table:
    table = Table(title=f"sessions in {source}", title_justify="left")
    tagged = any(one.tags for one in found)
    for name, justify in [*_COLUMNS, _TAGS] if tagged else _COLUMNS:
        table.add_column(name, justify=justify, overflow="fold")
    for one in found:
        trajectory, measured = one.trajectory, measures([counts(one.calls, one.trajectory)])
        table.add_row(
            Text(trajectory.session),
            _status(trajectory),
            Text(_rewards(trajectory)),
            str(measured.calls),
            str(measured.sequences),
            "-" if measured.merge_ratio is None else f"{measured.merge_ratio:.1f}",
            f"{measured.trained}/{measured.tokens}",
            Text(", ".join(sorted({item.reason for item in trajectory.drift})) or "-"),
            *([Text(" ".join(f"{name}={value}" for name, value in one.tags.items()) or "-")] if tagged else []),
        )
    return table


_COLUMNS: list[tuple[str, Any]] = [
    ("session", "left"),
    ("status", "left"),
    ("reward", "left"),
    ("calls", "right"),
    ("sequences", "right"),
    ("merge", "right"),
    ("trained/tokens", "right"),
    ("drift", "left"),
]
_TAGS: tuple[str, Any] = ("tags", "left")


def _nothing(source: str) -> Text:
    return Text(
        f"no model call is captured in {source} yet: start `nexrl proxy --ingest URL` and point an agent's "
        "OPENAI_BASE_URL at it, or run a recipe with `nexrl-train`",
        style="yellow",
    )


def _panel(found: Recorded, decode: Decoder, *, marks: bool) -> Panel:
    trajectory = found.trajectory
    parts: list[RenderableType] = [chain_tree(found)]
    for number, sequence in enumerate(trajectory.sequences):
        agent = f", agent {sequence.agent}" if sequence.agent else ""
        heading = f"sequence {number}: {len(sequence.ids)} tokens, {sum(sequence.loss_mask)} trained{agent}"
        parts += [Text(heading, style="bold"), coloured(sequence, decode, marks=marks)]
    if not trajectory.sequences:
        parts.append(Text("no sequence can be laid out", style="yellow"))
    parts += [Text(f"drift: call {item.call}: {item.reason}", style="yellow") for item in trajectory.drift]
    title = Text.assemble(trajectory.session, " ", _status(trajectory), " ", _rewards(trajectory))
    return Panel(Group(*parts), title=title, title_align="left")


def chain_tree(found: Recorded) -> Tree:
    """Return the session's chains, each under the call it leaves.

    Example: `0: a1 → b2 → c3` with `1: d4 (from a1)` under it, where d4 extends a1 as b2 does.
    """
    parents, tree = sequences.extended(found.calls), Tree("chains", hide_root=True)
    places: dict[str | None, Tree] = {None: tree}
    waiting = deque(enumerate(found.trajectory.sequences))
    while waiting:
        number, sequence = waiting.popleft()
        parent = parents.get(sequence.calls[0])
        if parent not in places:
            waiting.append((number, sequence))
            continue
        line = " → ".join(call[:_SHOWN_ID] for call in sequence.calls)
        origin = f" (from {parent[:_SHOWN_ID]})" if parent else ""
        node = places[parent].add(Text(f"{number}: {line}{origin}", style="cyan"))
        places |= dict.fromkeys(sequence.calls, node)
    return tree


def coloured(sequence: Sequence, decode: Decoder, *, marks: bool = False) -> Text:
    """Return a sequence's text, what is trained set off from its context; `marks`: where there are no colours."""
    text = Text()
    for trained, pairs in groupby(zip(sequence.loss_mask, sequence.ids, strict=True), key=lambda pair: pair[0]):
        piece = decode([token for _, token in pairs])
        text.append(f"⟦{piece}⟧" if trained and marks else piece, style=TRAINED if trained else CONTEXT)
    return text


def _status(trajectory: Trajectory) -> Text:
    reason = f" ({trajectory.reason})" if trajectory.reason else ""
    return Text(trajectory.status + reason, style=STATUS_STYLES[trajectory.status])


def _rewards(trajectory: Trajectory) -> str:
    return " ".join(f"{name}={value:g}" for name, value in ledger.named(trajectory.rewards).items()) or "-"


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
