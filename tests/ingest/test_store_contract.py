"""What every store promises to the work that runs on it, whatever it keeps its tables in."""

import asyncio
import threading
import time

import pytest
from ingest_world import call, group, request_of

from nexrl.records import Attempt, Outcome
from nexrl_ingest import span_log
from nexrl_ingest.groups import ledger, pool
from nexrl_ingest.otlp.spans import batch
from nexrl_ingest.refusals import NotFoundError
from nexrl_ingest.store import Connection
from nexrl_ingest.wire import LeaseRequest

ON_BOTH_STORES = True


def add(id_: str, *, fail: bool = False):
    def work(connection: Connection) -> str:
        connection.execute("INSERT INTO attempts (id, group_id, rollout) VALUES (?, 'g', 0)", (id_,))
        if fail:
            raise NotFoundError(id_)
        return id_

    return work


def ids(connection: Connection) -> list[str]:
    return [id_ for [id_] in connection.fetch("SELECT id FROM attempts ORDER BY id")]


def block_of(*calls) -> span_log.Block:
    [block] = batch(request_of(*calls), None).blocks
    return block


async def test_what_is_written_is_there_after_the_store_is_opened_again(store, open_store):
    assert await store.write(add("a")) == "a"
    again = open_store()
    assert await again.read(ids) == ["a"]
    again.close()


async def test_a_failing_submission_undoes_its_own_changes_and_nobody_elses(store):
    works = [add("a"), add("b", fail=True), add("a"), add("c")]
    results = await asyncio.gather(*map(store.write, works), return_exceptions=True)
    assert (results[0], results[3]) == ("a", "c")
    assert [type(item).__name__ for item in results[1:3]] in (
        ["NotFoundError", "IntegrityError"],
        ["NotFoundError", "UniqueViolation"],
    )
    assert await store.read(ids) == ["a", "c"]


async def test_a_bug_in_one_submission_is_that_ones_error(store):
    results = await asyncio.gather(store.write(lambda _: 1 / 0), store.write(add("a")), return_exceptions=True)
    assert [type(results[0]), results[1]] == [ZeroDivisionError, "a"]


async def test_the_store_goes_on_after_a_query_that_is_wrong(store):
    with pytest.raises(Exception, match="nowhere"):
        await store.write(lambda connection: connection.fetch("SELECT 1 FROM nowhere WHERE a = ?", (1,)))
    assert await store.write(add("b")) == "b"


async def test_what_waits_together_is_committed_together(store):
    commits = 0
    transactions = store._commits._transactions
    commit = transactions.commit

    def counted() -> None:
        nonlocal commits
        commits += 1
        commit()

    transactions.commit = counted
    await asyncio.gather(
        store.write(lambda _: time.sleep(0.2)),
        *(store.write(lambda connection: connection.fetch("SELECT 1")) for _ in range(100)),
    )
    assert commits <= 2


async def test_what_is_durable_is_acknowledged_although_a_listener_raises_and_the_others_are_told(store):
    told = []

    def raises() -> None:
        told.append("raises")
        raise RuntimeError("gone")

    listeners = [raises, lambda: told.append("another"), lambda: told.append("third")]
    for listener in listeners:
        store.bell.listen(listener)
    assert await store.write(add("a"), tells=True) == "a"
    assert {"raises", "another", "third"} == set(told)
    store.bell.leave(raises)
    assert await store.write(add("b")) == "b"
    assert await store.read(ids) == ["a", "b"]


async def test_a_reader_sees_one_moment_beside_the_writer(store):
    await store.write(add("a"))
    started, written = threading.Event(), threading.Event()

    def look_twice(connection: Connection) -> tuple[list[str], list[str]]:
        first = ids(connection)
        started.set()
        assert written.wait(5)
        return first, ids(connection)

    reading = asyncio.create_task(store.read(look_twice))
    assert await asyncio.to_thread(started.wait, 5)
    await store.write(add("b"))
    written.set()
    assert await reading == (["a"], ["a"])
    assert await store.read(ids) == ["a", "b"]


async def test_a_reader_cannot_write(store):
    with pytest.raises(Exception, match=r"read-?only"):
        await store.read(add("a"))
    assert await store.read(ids) == []


async def test_values_come_back_as_they_went_in(store):
    def work(connection: Connection) -> list[tuple]:
        values = ("r ? % é 🦜", -(2**62), 0.1, b"\x00\xff", None)
        query = "INSERT INTO attempts (id, group_id, rollout) VALUES (?, 'g', ?)"
        assert connection.execute(query, (values[0], values[1])) == 1
        assert connection.executemany(f"{query} ON CONFLICT DO NOTHING", [("a", True), ("b", 0), ("a", 2)]) == 2
        assert connection.execute("UPDATE attempts SET id = ? WHERE id LIKE '%parrot%'", ("x",)) == 0
        assert connection.executemany("DELETE FROM attempts WHERE id = ?", []) == 0
        connection.execute("INSERT INTO judgements (id, trace_id, body) VALUES ('j', ?, ?)", (values[3], b""))
        connection.execute(
            "INSERT INTO rewards (session, name, value, call, by, at_ns) VALUES ('s', 'n', ?, ?, 'b', 1)",
            (values[2], values[4]),
        )
        return [
            *connection.fetch("SELECT id, rollout FROM attempts ORDER BY seq LIMIT 2"),
            *connection.fetch("SELECT trace_id, body FROM judgements"),
            connection.fetch_one("SELECT value, call FROM rewards WHERE session = ?", ("s",)),
            connection.fetch_one("SELECT value FROM rewards WHERE session = ?", ("nobody",)),
        ]

    assert await store.write(work) == [
        ("r ? % é 🦜", -(2**62)),
        ("a", 1),
        (b"\x00\xff", b""),
        (0.1, None),
        None,
    ]


async def test_a_span_that_comes_again_is_stored_once_and_its_session_is_heard_of_again(store):
    block = block_of(call([1], [2]))
    for now_ns in (5, 9):
        await store.write(lambda connection, now_ns=now_ns: span_log.append(connection, block, now_ns), exclusive=False)
    assert await store.read(lambda connection: span_log.count_calls(connection, "session-1")) == 1
    found = await store.read(lambda connection: connection.fetch("SELECT id, first_ns, last_ns FROM sessions"))
    assert found == [("session-1", 5, 9)]
    assert await store.read(lambda connection: connection.fetch("SELECT count(*) FROM blocks")) == [(1,)]


async def test_two_openers_of_one_store_take_turns_where_they_decide(open_store):
    """Each looks before it writes: side by side both would find the group one short of complete."""
    first, second = open_store(), open_store()
    await first.write(lambda connection: ledger.put_group(connection, group(size=8)))

    def finished(rollout: int):
        def work(connection: Connection) -> None:
            ledger.put_attempt(connection, Attempt(id=f"a{rollout}", group="group-1", rollout=rollout))
            ledger.put_outcome(connection, f"a{rollout}", Outcome(status="completed"), 1)
            time.sleep(0.01)

        return work

    await asyncio.gather(*((first, second)[number % 2].write(finished(number)) for number in range(8)))
    request = LeaseRequest(run="run-1", limit=5)
    grants = await asyncio.gather(
        *(one.write(lambda connection: pool.lease(connection, request, 1)) for one in (first, second))
    )
    assert [grant.group for found in grants for grant in found] == ["group-1"]
    first.close()
    second.close()


async def test_replicas_that_store_the_same_spans_crosswise_both_succeed(open_store):
    """In PostgreSQL they wait for each other in a circle until one of them is told to try again."""
    first, second = open_store(), open_store()
    one, other = block_of(call([1], [2])), block_of(call([3], [4]))

    def both(*blocks: span_log.Block):
        def work(connection: Connection) -> None:
            for block in blocks:
                span_log.append(connection, block, 1)
                time.sleep(0.05)

        return work

    await asyncio.gather(
        first.write(both(one, other), exclusive=False), second.write(both(other, one), exclusive=False)
    )
    assert await first.read(lambda connection: span_log.count_calls(connection, "session-1")) == 2
    first.close()
    second.close()


async def test_closing_finishes_what_was_submitted(open_store):
    store = open_store()
    pending = [asyncio.ensure_future(store.write(add(f"a{number}"))) for number in range(20)]
    await asyncio.sleep(0)
    store.close()
    assert await asyncio.gather(*pending) == [f"a{number}" for number in range(20)]
    again = open_store()
    assert len(await again.read(ids)) == 20
    again.close()
