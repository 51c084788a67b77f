"""`nexrl export`: a run as files: JSON lines, Parquet, or a dataset in the layout of the Hugging Face hub.

One row per sequence; a rollout without one has a row too, so that failures are part of the data. Nothing is left out
in silence: where calls that the trainer counted are gone, the export is refused.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from nexrl.errors import ConfigError, RunError
from nexrl_ingest.commands.rows import Row, rows_of
from nexrl_ingest.commands.sources import Source, opened, recorded, run_of
from nexrl_ingest.commands.writers import HubWriter, JsonlWriter, ParquetWriter, Writer


class Format(StrEnum):
    """File formats."""

    JSONL = "jsonl"
    PARQUET = "parquet"
    HF = "hf"


_WRITERS: dict[Format, type[Writer]] = {
    Format.JSONL: JsonlWriter,
    Format.PARQUET: ParquetWriter,
    Format.HF: HubWriter,
}
Data = Annotated[Path | None, typer.Option(help="Data directory of ingest, or a run directory.")]
Run = Annotated[str | None, typer.Option(help="The run, as its recipe is named. [default: the only one there is]")]
Url = Annotated[str | None, typer.Option(help="URL of a running ingest; its key in NEXRL_ADMIN_KEY.")]


def export(
    *,
    out: Annotated[Path, typer.Option(help="Directory to write to; made where it is missing, and must be empty.")],
    data: Data = None,
    url: Url = None,
    run: Run = None,
    format: Annotated[Format, typer.Option(help="Of the files; parquet and hf need pyarrow.")] = Format.JSONL,  # noqa: A002 - the flag's name
) -> None:
    """Write a run's trajectories to files: tokens, masks, logprobs, weight versions, rewards and messages.

    jsonl: OUT/trajectories.jsonl. parquet: OUT/trajectories.parquet. hf: OUT/data/*.parquet and a README card;
    `datasets.load_dataset("OUT")` reads it, training groups as `train` and evaluation groups as `test`.

    Example: nexrl export --data runs/short --format hf --out short-dataset
    """
    where = one_of(data, url)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out {out}: it exists and is not an empty directory; give another")
    rows, sessions, left_out = asyncio.run(_export(where, run, out, _WRITERS[format]))
    typer.echo(f"{rows} rows of {sessions} rollouts written to {out}")
    if left_out:
        typer.echo(f"{left_out} of the sessions there are in no group, so of no run, and are left out", err=True)


def one_of(data: Path | None, url: str | None) -> str:
    """Return where to read from; raises ConfigError unless exactly one was given."""
    if (data is None) == (url is None):
        raise ConfigError("give one of --data DIR and --url URL")
    return str(data) if data else str(url)


async def _export(where: str, run: str | None, out: Path, kind: type[Writer]) -> tuple[int, int, int]:
    """Return how many rows were written, of how many rollouts, and how many sessions belong to no run."""
    written: Counter[str] = Counter()
    async with opened(where) as source:
        name = await run_of(source, where, run)
        with kind(out, name) as writer:
            async for row in run_rows(source, name):
                writer.write(row)
                written[row.session] += 1
            if not written:
                raise RunError(f"run {name!r}: {where} has no final rollout of it")
        ungrouped = sum(one.group is None for one in await source.sessions())
    return written.total(), len(written), ungrouped


async def run_rows(source: Source, run: str) -> AsyncIterator[Row]:
    """Go through a run's final rollouts; raises RunError where calls are gone that the trainer had counted."""
    for state in await source.groups(run):
        for outcome in state.outcomes:
            found = await recorded(source, outcome.attempt, state.id)
            given = found.attempt.outcome if found.attempt else None
            if given and given.calls is not None and len(found.calls) < given.calls:
                raise RunError(
                    f"attempt {outcome.attempt!r}: {len(found.calls)} of {given.calls} calls are still stored; "
                    "the others were removed (see --keep-days and --keep-gb of `nexrl ingest`)"
                )
            for row in rows_of(found):
                yield row
