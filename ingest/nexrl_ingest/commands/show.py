"""`nexrl sessions` and `nexrl trajectories`: what was captured, as pictures in the terminal.

Read-only: from the file, beside a running ingest and after it, or over HTTP.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from msgspec import structs
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.text import Text
from rich.tree import Tree

from nexrl.errors import ConfigError
from nexrl.records import Sequence
from nexrl_ingest.assembly import sequences
from nexrl_ingest.commands.decoding import Decoder, Decoders
from nexrl_ingest.commands.session_table import fitted, rewards_of, status_of
from nexrl_ingest.commands.sources import Recorded, opened, recorded
from nexrl_ingest.wire import SessionSummary

SAMPLED, CONTEXT = "bold green", "dim"
UNFOLDED = 1_000_000
"""Cells, where no terminal has a width: a line is as long as it is."""
_SHOWN_ID = 8
_MORE = "these are the latest {}; there are more: --limit N shows the latest N"
_NUMBERS = (
    "tokens are shown by their numbers: --model DIR, the directory of the model or its tokenizer.json, gives text"
)
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
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line, as `GET /api/sessions` gives them.")
    ] = False,
) -> None:
    """List captured sessions: status, rewards, calls, how well they merged, how much was sampled, and drift.

    merge: calls per sequence, 1 where no call extends another. sampled: tokens of the model's own, which training can
    learn from. drift: calls that should have extended one and did not. A narrow terminal shows fewer columns.

    Example: nexrl sessions runs/short --limit 10
    """
    if json:
        listed = asyncio.run(_listed(source, limit + 1))
        for one in listed[-limit:]:
            typer.echo(msgspec.json.encode(one))
        if len(listed) > limit:
            typer.echo(_MORE.format(limit), err=True)
        return
    (found, more), console = asyncio.run(_captured(source, None, limit)), Console()
    if not console.is_terminal:
        console.width = UNFOLDED
    if not found:
        console.print(_nothing(source))
        return
    table, left_out = fitted(found, console.width)
    console.print(Text(f"sessions in {source}", style="italic"), soft_wrap=True)
    console.width = max(console.width, table.width or 0)
    console.print(table)
    if left_out:
        console.print(Text(f"no room for: {', '.join(left_out)}; a wider terminal or a pipe has it", style="dim"))
    if more:
        console.print(Text(_MORE.format(limit), style="dim"), soft_wrap=True)


def trajectories(
    source: Where,
    session: Annotated[str | None, typer.Argument(help="Session to show; the latest ones where none is given.")] = None,
    limit: Annotated[int, typer.Option(help="Without a session, show this many.", min=1)] = 3,
    model: Annotated[
        Path | None,
        typer.Option(help="Directory with the tokenizer; by default a run's own. Without one, ids are shown."),
    ] = None,
) -> None:
    """Show sessions as trees of chains and as text, sampled tokens in colour, or between ⟦ and ⟧ without colours.

    Example: nexrl trajectories http://127.0.0.1:4318 my-attempt --model models/qwen3
    """
    decoders = Decoders(source, model)
    (found, more), console = asyncio.run(_captured(source, session, limit)), Console()
    if not found:
        console.print(_nothing(source))
    for one in found:
        console.print(_panel(one, decoders.of, marks=console.color_system is None))
    if decoders.lacking:
        console.print(Text(_NUMBERS, style="dim"), soft_wrap=True)
    if more:
        console.print(Text(_MORE.format(limit), style="dim"), soft_wrap=True)


async def _listed(source: str, limit: int) -> list[SessionSummary]:
    async with opened(source) as where:
        return (await where.sessions(limit=limit))[::-1]


async def _captured(source: str, session: str | None, limit: int) -> tuple[list[Recorded], bool]:
    """Read one session, or the latest ones with model calls, the latest last; and say whether there are more."""
    async with opened(source) as where:
        chosen = await where.sessions(session=session, limit=limit + 1)
        if session and not chosen:
            raise ConfigError(f"session {session!r} is not in {source}; `nexrl sessions {source}` lists what is")
        found = [(one, await recorded(where, one.session, one.group)) for one in reversed(chosen[:limit])]
        return [structs.replace(item, tags=one.tags) for one, item in found], len(chosen) > limit


def _nothing(source: str) -> Text:
    return Text(
        f"no model call is captured in {source} yet: start `nexrl proxy --ingest URL` and point an agent's "
        "OPENAI_BASE_URL at it, or run a recipe with `nexrl-train`",
        style="yellow",
    )


def _panel(found: Recorded, decoders: Callable[[str], Decoder], *, marks: bool) -> Panel:
    trajectory = found.trajectory
    parts: list[RenderableType] = [chain_tree(found)]
    for number, sequence in enumerate(trajectory.sequences):
        agent = f", agent {sequence.agent}" if sequence.agent else ""
        policy = f", policy {sequence.policy}" if sequence.policy else ""
        heading = f"sequence {number}: {len(sequence.ids)} tokens, {sum(sequence.loss_mask)} sampled{agent}{policy}"
        parts += [Text(heading, style="bold"), coloured(sequence, decoders(sequence.policy), marks=marks)]
    if not trajectory.sequences:
        parts.append(Text("no sequence can be laid out", style="yellow"))
    parts += [Text(f"drift: call {item.call}: {item.reason}", style="yellow") for item in trajectory.drift]
    title = Text.assemble(trajectory.session, " ", status_of(trajectory), " ", rewards_of(trajectory))
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
    """Return a sequence's text, what was sampled set off from its context; `marks`: where there are no colours."""
    text = Text()
    for sampled, pairs in groupby(zip(sequence.loss_mask, sequence.ids, strict=True), key=lambda pair: pair[0]):
        piece = decode([token for _, token in pairs])
        text.append(f"⟦{piece}⟧" if sampled and marks else piece, style=SAMPLED if sampled else CONTEXT)
    return text
