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
from nexrl_ingest.commands.session_table import fitted, rewards_of, status_of
from nexrl_ingest.commands.sources import Recorded, opened, recorded
from nexrl_ingest.wire import SessionSummary

SAMPLED, CONTEXT = "bold green", "dim"
UNFOLDED = 1_000_000
"""Cells, where no terminal has a width: a line is as long as it is."""
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
        for one in asyncio.run(_listed(source, limit)):
            typer.echo(msgspec.json.encode(one))
        return
    found, console = asyncio.run(_captured(source, None, limit)), Console()
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


def trajectories(
    source: Where,
    session: Annotated[str | None, typer.Argument(help="Session to show; the latest ones where none is given.")] = None,
    limit: Annotated[int, typer.Option(help="Without a session, show this many.", min=1)] = 3,
    model: Annotated[
        Path | None, typer.Option(help="Directory with the tokenizer; a run's own by default, ids are shown without.")
    ] = None,
) -> None:
    """Show sessions as trees of chains and as text, sampled tokens in colour, or between ⟦ and ⟧ without colours.

    Example: nexrl trajectories http://127.0.0.1:4318 my-attempt --model models/qwen3
    """
    decode = _decoder(model or _newest_checkpoint(Path(source)))
    found = asyncio.run(_captured(source, session, limit))
    if not found:
        Console().print(_nothing(source))
    for one in found:
        console = Console()
        console.print(_panel(one, decode, marks=console.color_system is None))


async def _listed(source: str, limit: int) -> list[SessionSummary]:
    async with opened(source) as where:
        return (await where.sessions(limit=limit))[::-1]


async def _captured(source: str, session: str | None, limit: int) -> list[Recorded]:
    """Read one session, or the latest ones with model calls, the latest last."""
    async with opened(source) as where:
        chosen = await where.sessions(session=session, limit=limit)
        if session and not chosen:
            raise ConfigError(f"session {session!r} is not in {source}; `nexrl sessions {source}` lists what is")
        found = [(one, await recorded(where, one.session, one.group)) for one in reversed(chosen)]
        return [structs.replace(item, tags=one.tags) for one, item in found]


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
        heading = f"sequence {number}: {len(sequence.ids)} tokens, {sum(sequence.loss_mask)} sampled{agent}"
        parts += [Text(heading, style="bold"), coloured(sequence, decode, marks=marks)]
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
