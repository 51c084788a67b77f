"""Live events and lists: what happened, resumable, without a buffer; sessions a page at a time."""

import asyncio
import contextlib
import json
import socket
import time

import pytest
from ingest_world import ADMIN_KEY, call, finish, group

from nexrl.records import Attempt, Outcome
from nexrl_ingest.api import events as door
from nexrl_ingest.sessions import events

LARGE = [("session-1", "n" * 30_000, 1.0, "trainer", 1)] * 400
"""Rewards that are more than the kernel keeps for a reader that takes nothing."""
both_stores = pytest.mark.parametrize("store", ["embedded", "postgres"], indirect=True)


async def watched(ingest, count: int, query: str = "", last: str | None = None) -> list[dict]:
    """Return the next events, each with its kind and its id."""
    headers = ingest.admin() | ({"Last-Event-ID": last} if last else {})
    found: list[dict] = []
    async with asyncio.timeout(5), ingest.http.get(f"{ingest.url}/api/events{query}", headers=headers) as response:
        assert (response.status, response.content_type) == (200, "text/event-stream")
        event: dict = {}
        while len(found) < count:
            line = (await response.content.readline()).decode().rstrip("\n")
            if not line and event:
                found.append(event)
                event = {}
            elif line.startswith(("id: ", "event: ")):
                name, _, value = line.partition(": ")
                event[name] = value
            elif line.startswith("data: "):
                event |= json.loads(line.removeprefix("data: "))
    return found


async def happened(ingest, client) -> None:
    await ingest.send(call([1], [2], session="group-1-0"))
    await finish(client, group(size=1))
    ask = {"name": "thumb", "value": 1}
    assert (await ingest.ask("POST", "/api/sessions/group-1-0/rewards", json=ask))[0] == 200
    await client.lease("run-1")


@both_stores
async def test_calls_outcomes_rewards_and_leases_are_told_as_they_happen(ingest, client):
    watching = asyncio.create_task(watched(ingest, 4))
    await asyncio.sleep(0.1)
    await happened(ingest, client)
    found = {item["event"]: item for item in await watching}
    assert set(found) == {"call", "outcome", "reward", "lease"}
    assert (found["call"]["session"], len(found["call"]["call"])) == ("group-1-0", 16)
    assert (found["outcome"]["status"], found["outcome"]["run"]) == ("completed", "run-1")
    assert (found["reward"]["name"], found["lease"]["group"]) == ("thumb", "group-1")


async def test_a_watcher_goes_on_after_the_last_event_it_saw(ingest, client):
    await happened(ingest, client)
    everything = await watched(ingest, 4, "?after=0.0.0.0")
    for seen in range(3):
        assert await watched(ingest, 3 - seen, last=everything[seen]["id"]) == everything[seen + 1 :]
    assert [item["event"] for item in await watched(ingest, 1, "?after=0.0.0.0&run=run-1")] == ["outcome"]
    assert await watched(ingest, 1, "?after=0.0.0.0&session=group-1-0") == everything[:1]


async def test_a_last_event_that_is_none_of_ours_is_refused(ingest):
    for wrong in ("x", "1.2.3", "-1.0.0.0", "9" * 30 + ".0.0.0"):
        status, reply = await ingest.ask("GET", f"/api/events?after={wrong}")
        assert (status, "none of ours" in reply["error"]["message"]) == (400, True)


async def test_a_reader_that_takes_nothing_is_cut_and_others_are_served(ingest, client, monkeypatch):
    monkeypatch.setattr(door, "WRITE_TIMEOUT_S", 0.3)
    insert = "INSERT INTO rewards (session, name, value, by, at_ns) VALUES (?, ?, ?, ?, ?)"
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        host, port = ingest.url.removeprefix("http://").split(":")
        slow.connect((host, int(port)))
        slow.sendall(
            f"GET /api/events?after=0.0.0.0 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN_KEY}\r\n\r\n".encode()
        )
        await ingest.store.write(lambda connection: connection.executemany(insert, LARGE))
        deadline = time.monotonic() + 10
        while len(await watched(ingest, 1, "?after=0.0.0.0")) != 1:
            assert time.monotonic() < deadline
        await asyncio.sleep(0.7)
        slow.settimeout(2)
        received = 0
        with contextlib.suppress(ConnectionResetError):
            while piece := slow.recv(65536):
                received += len(piece)
    assert received < sum(len(row[1]) for row in LARGE)


async def test_more_watchers_than_are_served_are_told_to_come_back(ingest, monkeypatch):
    monkeypatch.setattr(door, "MOST_WATCHERS", 0)
    status, reply = await ingest.ask("GET", "/api/events")
    assert (status, reply["error"]["type"]) == (503, "unavailable")


def test_a_cursor_is_written_as_it_is_read():
    cursor = events.Cursor(12, 5, 3, 8)
    assert (str(cursor), events.cursor_of("12.5.3.8")) == ("12.5.3.8", cursor)


@both_stores
async def test_sessions_are_listed_the_latest_first_by_run_status_and_time(ingest, client):
    for index in range(3):
        await ingest.send(call([1], [2], session=f"external-{index}"))
    await ingest.send(call([1], [2], session="group-1-0"))
    await finish(client, group(size=1), status="failed", reason="timeout")
    _, page = await ingest.ask("GET", "/api/sessions?limit=2")
    assert [item["session"] for item in page["sessions"]] == ["group-1-0", "external-2"]
    assert page["sessions"][0] == {
        "session": "group-1-0",
        "run": "run-1",
        "group": "group-1",
        "status": "failed",
        "reason": "timeout",
        "calls": 1,
        "rewards": {},
        "tags": {},
    }
    _, rest = await ingest.ask("GET", f"/api/sessions?limit=2&before={page['next']}")
    assert [item["session"] for item in rest["sessions"]] == ["external-1", "external-0"]
    for query, found in (
        ("run=run-1", ["group-1-0"]),
        ("status=failed", ["group-1-0"]),
        ("status=open&limit=1", ["external-2"]),
        ("session=external-1", ["external-1"]),
        (f"since={time.time_ns() + 10**12}", []),
        (f"since={time.time_ns() - 10**12}&run=nowhere", []),
    ):
        _, listed = await ingest.ask("GET", f"/api/sessions?{query}")
        assert [item["session"] for item in listed["sessions"]] == found, query


async def test_a_group_is_returned_with_all_its_attempts(ingest, client):
    await client.put_group(group(size=1))
    for name, final in (("first", False), ("second", True)):
        await client.put_attempt(Attempt(id=name, group="group-1", rollout=0))
        await client.put_outcome(name, Outcome(status="completed", final=final))
    record = await client.group("group-1")
    assert [(item.attempt.id, item.outcome.final) for item in record.attempts] == [("first", False), ("second", True)]
    assert record.group == group(size=1)
    assert (await ingest.ask("GET", "/api/groups/nowhere"))[0] == 404
