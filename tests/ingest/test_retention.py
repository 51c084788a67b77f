"""Retention: what is too old or too much is forgotten, and nothing that somebody still waits for."""

import asyncio
import contextlib
import os
from functools import partial

import pytest
from ingest_process import Process
from ingest_world import ADMIN_KEY, call, finish, group

from nexrl.errors import ConfigError
from nexrl.records import Attempt, Reward
from nexrl_ingest.client import IngestClient
from nexrl_ingest.groups import ledger
from nexrl_ingest.otlp.evaluations import Judgement
from nexrl_ingest.sessions import judging, retention
from nexrl_ingest.sessions.retention import DAY_NS, Limits, keep_within, limits_of
from nexrl_ingest.span_log import Block, SpanRow, append
from nexrl_ingest.store.postgres import PostgresStore
from nexrl_ingest.wire import Tag

ON_BOTH_STORES = True
WEEK = Limits(age_ns=7 * DAY_NS)
NOW_NS = 100 * DAY_NS
TAG, REWARD = Tag(name="name", value="v"), Reward(name="r", value=1.0)


async def sent(store, session: str | None, day: int, *, size: int = 1) -> None:
    """Store a span of `size` bytes, as it would have arrived on that day."""
    row = SpanRow(os.urandom(16), os.urandom(8), session, is_call=False)
    await store.write(lambda connection: append(connection, Block(os.urandom(size), [row]), day * DAY_NS))


async def left(store) -> list[str]:
    found = await store.read(lambda connection: connection.fetch("SELECT DISTINCT session FROM spans"))
    return sorted(str(session) for [session] in found)


async def test_sessions_of_which_nothing_came_for_longer_are_forgotten_with_all_that_names_them(store):
    await sent(store, "old", 1)
    await sent(store, "old", 92)
    await sent(store, "talkative", 1)
    await sent(store, "talkative", 94)
    await store.write(lambda connection: ledger.put_reward(connection, "old", Reward(name="r", value=1.0), 1))
    assert await keep_within(store, WEEK, NOW_NS) == 1
    assert await left(store) == ["talkative"]
    for table in ("rewards", "sessions WHERE id = 'old'"):
        counted = await store.read(lambda connection, table=table: connection.fetch(f"SELECT count(*) FROM {table}"))
        assert counted == [(0,)]


async def test_spans_without_a_session_age_too(store):
    await sent(store, None, 1)
    await sent(store, None, 99)
    assert await keep_within(store, WEEK, NOW_NS) == 1
    assert await left(store) == ["None"]


async def test_a_judgement_whose_span_never_came_ages_too(store):
    def give(name: str, day: int):
        reward = Reward(name=name, value=1.0, by="judge", id=name)
        waiting = Judgement(session=None, trace_id=b"t" * 16, span_id=b"s" * 8, response=None, reward=reward)
        return lambda connection: judging.give(connection, waiting, day * DAY_NS)

    for name, day in (("old", 1), ("young", 99)):
        assert await store.write(give(name, day)) is None
    assert await keep_within(store, WEEK, NOW_NS) == 1
    assert await store.read(lambda connection: connection.fetch("SELECT id FROM judgements")) == [("young",)]


async def test_what_was_said_of_a_session_whose_spans_never_came_ages_too_and_makes_no_session(store, client):
    for session, day in (("old", 1), ("young", 99)):
        for work in (
            lambda connection, now_ns, session=session: ledger.put_tag(connection, session, TAG, now_ns),
            lambda connection, now_ns, session=session: ledger.put_reward(connection, session, REWARD, now_ns),
        ):
            await store.write(partial(work, now_ns=day * DAY_NS))
    assert await client.sessions() == []
    assert await keep_within(store, WEEK, NOW_NS) == 1
    for table in ("tags", "rewards"):
        query = f"SELECT session FROM {table}"
        assert await store.read(lambda connection, query=query: connection.fetch(query)) == [("young",)]
    await sent(store, "young", 99)
    assert [(item.session, item.tags, item.rewards) for item in await client.sessions()] == [
        ("young", {"name": "v"}, {"r": 1.0})
    ]


async def test_what_is_said_of_a_session_makes_it_no_younger(store):
    await sent(store, "old", 1)
    await store.write(lambda connection: ledger.put_tag(connection, "old", TAG, 99 * DAY_NS))
    await store.write(lambda connection: ledger.put_reward(connection, "old", REWARD, 99 * DAY_NS))
    assert await keep_within(store, WEEK, NOW_NS) == 1
    assert await store.read(lambda connection: connection.fetch("SELECT * FROM tags")) == []


async def test_the_room_of_all_tables_is_given_back(postgres):
    with contextlib.closing(PostgresStore(postgres.new_database())) as store:
        await sent(store, "old", 1)
        assert await keep_within(store, WEEK, NOW_NS) == 1
        query = "SELECT relname FROM pg_stat_user_tables WHERE schemaname = 'nexrl_ingest' AND last_vacuum IS NULL"
        assert await store.read(lambda connection: connection.fetch(query)) == []


async def test_only_groups_that_are_done_are_forgotten_and_then_as_a_whole(store, client):
    for name in ("open", "ready", "leased", "acked", "half-old"):
        await client.put_group(group(name, size=2))
        for rollout in range(2):
            await client.put_attempt(Attempt(id=f"{name}-{rollout}", group=name, rollout=rollout))
            await sent(store, f"{name}-{rollout}", 99 if (name, rollout) == ("half-old", 1) else 1)
    for name in ("acked", "half-old", "leased"):
        await finish(client, group(name, size=2))
        [held] = await client.lease("run-1")
        if name != "leased":
            await client.ack([held.lease])
    await finish(client, group("ready", size=2))
    assert await keep_within(store, WEEK, NOW_NS) == 2
    kept = [f"{name}-{rollout}" for name in ("half-old", "leased", "open", "ready") for rollout in range(2)]
    assert await left(store) == kept
    states = {item.id: item.state for item in await client.groups("run-1")}
    assert states == {"open": "open", "ready": "ready", "leased": "leased", "half-old": "done"}


async def test_a_complete_evaluation_is_done_with(store, client):
    await finish(client, group("eval", size=1, mode="eval"))
    await sent(store, "eval-0", 1)
    assert await keep_within(store, WEEK, NOW_NS) == 1
    assert await client.groups("run-1") == []


async def test_by_size_the_oldest_go_until_the_rest_fits(store):
    for number in range(120):
        await sent(store, f"session-{number:03}", 1 + number // 2, size=30_000)
    before = await store.size()
    assert before > 120 * 30_000
    await keep_within(store, Limits(size=3_300_000), NOW_NS)
    kept = await left(store)
    assert await store.size() <= 3_300_000
    assert kept == [f"session-{number:03}" for number in range(120 - len(kept), 120)]
    assert len(kept) > 30


async def test_a_store_full_of_what_must_be_kept_is_left_as_it_is(store, client):
    await client.put_group(group(size=1))
    await client.put_attempt(Attempt(id="a", group="group-1", rollout=0))
    await sent(store, "a", 1, size=50_000)
    assert await keep_within(store, Limits(age_ns=1, size=1), NOW_NS) == 0
    assert await left(store) == ["a"]


async def test_a_session_that_was_forgotten_may_begin_anew(store, client, ingest):
    again = call([1], [2], session="again")
    await ingest.send(again)
    await keep_within(store, Limits(age_ns=1), 2**62)
    assert await left(store) == []
    await ingest.send(again)
    assert [item["id"] for item in (await client.session("again"))["calls"]] == [again.id]


async def test_without_limits_everything_is_kept(store):
    await sent(store, "old", 1)
    assert await keep_within(store, Limits(), NOW_NS) == 0
    assert await left(store) == ["old"]


@pytest.mark.parametrize(("days", "gb", "flag"), [(0, None, "--keep-days 0"), (None, -1, "--keep-gb -1")])
def test_a_limit_that_would_keep_nothing_is_refused(days, gb, flag):
    with pytest.raises(ConfigError, match=f"{flag}: nothing would be kept"):
        limits_of(days, gb)


def test_limits_are_days_and_gigabytes():
    assert limits_of(0.5, 2) == Limits(age_ns=DAY_NS // 2, size=2_000_000_000)


async def test_a_running_server_keeps_within_its_limits_by_itself(store, monkeypatch):
    from aiohttp import web

    monkeypatch.setattr(retention, "EVERY_S", 0.02)
    await sent(store, "old", 1)
    app = web.Application()
    app.cleanup_ctx.append(retention.background(store, WEEK))
    runner = web.AppRunner(app)
    await runner.setup()
    for again in ("as-old", "as-old-too"):
        async with asyncio.timeout(5):
            while await left(store):  # noqa: ASYNC110 - the sweep tells nobody
                await asyncio.sleep(0.01)
        await sent(store, again, 1)
    await runner.cleanup()


@pytest.mark.slow
async def test_the_flags_of_the_command_are_what_is_kept_within(tmp_path):
    with Process(tmp_path) as running:
        async with IngestClient(running.url, ADMIN_KEY) as client:
            await client.put_calls([call([1], [2], session="old")], {})
    with Process(tmp_path, "--keep-days", "1", "--keep-gb", "1") as running:
        async with IngestClient(running.url, ADMIN_KEY) as client:
            await asyncio.sleep(0.2)
            assert [item.session for item in await client.sessions()] == ["old"]
    with Process(tmp_path, "--keep-days", "0.0000001") as running:
        async with IngestClient(running.url, ADMIN_KEY) as client, asyncio.timeout(10):
            while await client.sessions():  # noqa: ASYNC110 - the sweep tells nobody
                await asyncio.sleep(0.01)
    assert Process(tmp_path, "--keep-gb", "0").end().startswith("error: --keep-gb 0: nothing would be kept")
