"""`nexrl replay`: send a recorded run into another ingest, or through assembly again to see what differs.

Ids stay what they were and every request may be repeated, so a replay that broke off is started again. A trajectory is
a function of what was recorded: with an export of an earlier NexRL at hand, this shows what a change of it changed.
"""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from msgspec import structs

from nexrl.errors import ConfigError, RunError
from nexrl.keys import admin_key
from nexrl.records import Reward
from nexrl_ingest.assembly.sequences import prompt_lengths
from nexrl_ingest.client import IngestClient
from nexrl_ingest.commands.exporting import Data, Run, Url, one_of, run_rows
from nexrl_ingest.commands.rows import Row
from nexrl_ingest.commands.sources import Source, opened, run_of
from nexrl_ingest.wire import AttemptRecord, RewardRequest

COMPARED = ("status", "reason", "calls", "ids", "loss_mask", "logprobs", "weight_versions", "temperatures", "agent")


def replay(
    *,
    data: Data = None,
    url: Url = None,
    run: Run = None,
    to: Annotated[str | None, typer.Option(help="URL of the ingest to send it to; key in NEXRL_ADMIN_KEY.")] = None,
    against: Annotated[Path | None, typer.Option(help="An export in JSON lines to compare with.")] = None,
) -> None:
    """Send a recorded run into another ingest (--to), or assemble it again and print what differs (--against).

    Examples:
    nexrl replay --data runs/short --to http://127.0.0.1:4318
    nexrl replay --data runs/short --against short-export/trajectories.jsonl
    """
    if (to is None) == (against is None):
        raise ConfigError("nexrl replay: give one of --to URL and --against FILE")
    where = one_of(data, url)
    if to:
        name, groups, calls = asyncio.run(_send(where, run, to))
        typer.echo(f"{groups} groups and {calls} calls of run {name!r} sent to {to}")
        return
    assert against
    name, differing = asyncio.run(_differences(where, run, _exported(against)))
    for line in differing:
        typer.echo(line)
    if differing:
        raise RunError(f"{len(differing)} sequences of run {name!r} differ from {against}")
    typer.echo(f"run {name!r}: every sequence is as in {against}")


async def _send(where: str, run: str | None, to: str) -> tuple[str, int, int]:
    async with opened(where) as source, IngestClient(to, admin_key(None), give_up_s=10.0) as target:
        name = await run_of(source, where, run)
        states = await source.groups(name)
        calls = 0
        for state in states:
            record = await source.group(state.id)
            await target.put_group(record.group)
            for attempt in record.attempts:
                calls += await _send_attempt(source, target, attempt)
        return name, len(states), calls


async def _send_attempt(source: Source, target: IngestClient, record: AttemptRecord) -> int:
    session = record.attempt.id
    await target.put_attempt(record.attempt)
    # An attempt that ended before its first call has nothing to read.
    calls = await source.calls(session)
    await target.put_calls(calls, prompt_lengths(calls))
    of_outcome, later = split_rewards(record)
    if record.outcome:
        await target.put_outcome(session, structs.replace(record.outcome, rewards=of_outcome))
    for index, reward in enumerate(later):
        await target.reward(session, _request(reward, index))
    return len(calls)


def split_rewards(record: AttemptRecord) -> tuple[list[Reward], list[Reward]]:
    """Return the rewards that came with the outcome, with the time they were given at, and those that came besides."""
    given = Counter(_said(reward) for reward in (record.outcome.rewards if record.outcome else []))
    of_outcome: list[Reward] = []
    later: list[Reward] = []
    for reward in record.rewards:
        if given[_said(reward)] > 0:
            given[_said(reward)] -= 1
            of_outcome.append(reward)
        else:
            later.append(reward)
    return of_outcome, later


async def _differences(where: str, run: str | None, exported: dict[tuple[str, int], Row]) -> tuple[str, list[str]]:
    found: list[str] = []
    async with opened(where) as source:
        name = await run_of(source, where, run)
        async for row in run_rows(source, name):
            before = exported.pop((row.session, row.sequence), None)
            found += [f"{row.session} sequence {row.sequence}: {text}" for text in differences(before, row)]
    return name, found + [f"{session} sequence {number}: is gone" for session, number in exported]


def differences(before: Row | None, now: Row) -> list[str]:
    """Say in one line how a sequence differs from what it was; nothing where it does not."""
    if before is None:
        return ["is new"]
    changed = [name for name in COMPARED if getattr(before, name) != getattr(now, name)]
    if not changed:
        return []
    return [f"{', '.join(changed)} differ ({len(before.ids)} tokens, now {len(now.ids)})"]


def _exported(path: Path) -> dict[tuple[str, int], Row]:
    try:
        rows = [msgspec.json.decode(line, type=Row) for line in path.read_bytes().splitlines()]
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"--against {path}: {error}; give a file that `nexrl export --format jsonl` wrote") from error
    return {(row.session, row.sequence): row for row in rows}


def _said(reward: Reward) -> tuple[str, float, str | None, str]:
    return reward.name, reward.value, reward.call, reward.by


def _request(reward: Reward, index: int) -> RewardRequest:
    return RewardRequest(
        name=reward.name,
        value=reward.value,
        call=reward.call,
        by=reward.by,
        id=reward.id or f"replayed-{reward.at_ns}-{index}",
        explanation=reward.explanation,
        at_ns=reward.at_ns,
    )
