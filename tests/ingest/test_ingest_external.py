"""Sessions that nobody planned: which can be learned from by now, how the others stand, and what is said of them."""

import asyncio
import time

import pytest
from ingest_world import ADMIN_KEY, call

import nexrl
from nexrl.errors import AccessError
from nexrl.keys import attempt_key, read_key, reward_grant
from nexrl_ingest.client import External, RewardRequest
from nexrl_ingest.sessions.retention import Limits, keep_within

ON_BOTH_STORES = True
DAY_NS = 86_400 * 10**9
THUMBS = External(idle_s=0, feedback=["thumbs"])


async def judge(client, session, name="thumbs", value=1.0, **fields):
    await client.reward(session, RewardRequest(name=name, value=value, **fields))


async def ready(client, external, run="live"):
    """Lease all that is ready; return the sessions by group."""
    leased = await client.lease(run, limit=99, external=external)
    return [[one.session for one in item.group.trajectories] for item in leased]


async def talks(ingest, *sessions, **fields):
    for session in sessions:
        await ingest.send(call([1], [2], session=session, **fields))


async def passes(ingest, seconds):
    """Let so much time pass for the sessions that are here."""
    statement = "UPDATE sessions SET last_ns = last_ns - ?"
    await ingest.store.write(lambda connection: connection.execute(statement, (int(seconds * 1e9),)))


async def standing(client, external):
    state = await client.external("live", external)
    return state.talking, state.waiting, state.without_feedback, state.ready


async def test_a_session_is_learned_from_once_all_its_feedback_is_there_whenever_that_comes(ingest, client):
    await talks(ingest, "a", "b", "c")
    both = External(idle_s=0, feedback=["thumbs", "solved"], feedback_s=60)
    await judge(client, "a")
    await judge(client, "b", "solved")
    await judge(client, "b", "solved", 0.0)
    await judge(client, "c", "solved")
    await judge(client, "c", call="0" * 16)  # of one call of it, which says nothing of the whole
    assert await ready(client, both) == []
    assert await standing(client, both) == (0, 3, 0, 0)
    await passes(ingest, 3600)
    assert await standing(client, both) == (0, 0, 3, 0)
    await judge(client, "a", "solved")
    assert await standing(client, both) == (0, 0, 2, 1)
    assert await ready(client, both) == [["a"]]
    assert await standing(client, both) == (0, 0, 2, 0)


async def test_part_of_the_feedback_is_enough_where_that_is_said_and_its_time_is_over(ingest, client):
    await talks(ingest, "some", "none")
    await judge(client, "some")
    partly = External(idle_s=0, feedback=["thumbs", "solved"], feedback_s=60, partial=True)
    assert await ready(client, partly) == []
    await passes(ingest, 61)
    assert await ready(client, partly) == [["some"]]


async def test_an_agents_own_rewards_are_feedback_where_that_is_said(ingest, client):
    await talks(ingest, "a")
    await judge(client, "a", by="agent")
    assert await ready(client, THUMBS) == []
    assert await ready(client, External(idle_s=0, feedback=["thumbs"], agent=True)) == [["a"]]


async def test_a_session_that_still_talks_is_waited_for_although_it_has_its_feedback(ingest, client):
    await talks(ingest, "a")
    await judge(client, "a")
    later = External(idle_s=60, feedback=["thumbs"])
    assert await ready(client, later) == []
    assert await standing(client, later) == (1, 0, 0, 0)
    await passes(ingest, 61)
    assert await ready(client, later) == [["a"]]


async def test_of_the_same_key_those_with_feedback_are_compared_and_the_others_hold_up_nobody(ingest, client):
    await talks(ingest, "a", "b", "c", group="refunds")
    await talks(ingest, "keyless")
    pairs = External(idle_s=0, feedback=["thumbs"], group="key", size=2)
    for session in ("a", "keyless"):
        await judge(client, session)
    assert await ready(client, pairs) == []
    assert await standing(client, pairs) == (0, 2, 0, 2)
    await judge(client, "c", value=-1.0)
    assert await ready(client, pairs) == [["a", "c"]]


async def test_only_sessions_with_the_tags_that_are_asked_for_are_taken(ingest, client):
    await talks(ingest, "a", "b", "c")
    for session, name, value in (("a", "variant", "x"), ("a", "variant", "b"), ("b", "variant", "b"), ("b", "eu", "y")):
        grant = {"Authorization": f"Bearer {reward_grant(session, ADMIN_KEY)}"}
        ask = {"name": name, "value": value}
        assert (await ingest.ask("POST", f"/api/sessions/{session}/tags", json=ask, headers=grant))[0] == 200
    tagged = External(idle_s=0, tags={"variant": "b", "eu": "y"})
    assert await standing(client, tagged) == (0, 0, 0, 1)
    assert await ready(client, tagged) == [["b"]]
    assert {one.session: one.tags for one in await client.sessions()} == {
        "a": {"variant": "b"},
        "b": {"eu": "y", "variant": "b"},
        "c": {},
    }
    await ingest.store.write(lambda connection: connection.execute("UPDATE groups SET done = 1"))
    await keep_within(ingest.store, Limits(age_ns=0), time.time_ns() + DAY_NS)
    left = await ingest.store.read(lambda connection: connection.fetch("SELECT * FROM tags"))
    assert left == []


async def test_as_many_tags_as_a_request_may_have_are_asked_for_and_no_more(ingest, client):
    await talks(ingest, "a", "b")
    words = {f"name-{index}": "v" for index in range(100)}
    statement = "INSERT INTO tags (session, name, value) VALUES ('a', ?, ?)"
    await ingest.store.write(lambda connection: connection.executemany(statement, words.items()))
    assert await standing(client, External(idle_s=0, tags=words)) == (0, 0, 0, 1)
    assert await ready(client, External(idle_s=0, tags=words)) == [["a"]]
    for tags in (words | {"more": "v"}, {"": "v"}, {"n" * 201: "v"}, {"name": "v" * 1001}):
        for path, ask in (("runs/live/external", {}), ("groups/lease", {"run": "live"})):
            external = {"tags": tags}
            body = ask | {"external": external} if ask else external
            status, reply = await ingest.ask("POST", f"/api/{path}", json=body)
            assert (status, "tags" in reply["error"]["message"]) == (400, True)


async def test_a_key_tags_its_own_session_and_a_reader_none(ingest):
    await talks(ingest, "a")
    ask = {"name": "variant", "value": "b"}

    async def status(key, session="a"):
        headers = {"Authorization": f"Bearer {key}"}
        return (await ingest.ask("POST", f"/api/sessions/{session}/tags", json=ask, headers=headers))[0]

    assert await status(attempt_key("a", ADMIN_KEY)) == 200
    assert await status(attempt_key("b", ADMIN_KEY)) == 403
    assert await status(read_key(ADMIN_KEY)) == 403
    assert await status(ADMIN_KEY, "nobody") == 404


async def test_a_program_tags_its_session(ingest, client, monkeypatch):
    monkeypatch.setenv("NEXRL_INGEST_URL", ingest.url)
    await talks(ingest, "a")
    options = {"session": "a", "key": attempt_key("a", ADMIN_KEY), "required": True}
    assert await asyncio.to_thread(nexrl.tag, "variant", "b", **options)
    [session] = await client.sessions(session="a")
    assert session.tags == {"variant": "b"}
    with pytest.raises(AccessError, match="does not reach session 'b'"):
        await asyncio.to_thread(nexrl.tag, "variant", "b", **(options | {"session": "b"}))


async def test_a_reply_that_is_judged_by_its_id_is_the_call_that_gave_it_also_where_that_arrives_later(ingest, client):
    grant = reward_grant("a", ADMIN_KEY)
    given = {"session": "a", "url": ingest.url, "key": grant, "required": True}
    assert await nexrl.emit_reward_async("thumbs", 1, call="chatcmpl-1", **given)
    assert await nexrl.emit_reward_async("thumbs", 2, call="chatcmpl-2", **given)
    only, *choices = (call([1], [index], session="a", response=f"chatcmpl-{min(index, 2)}") for index in (1, 2, 3))
    await ingest.send(only, *choices)
    session = await client.session("a")
    # Two choices share the second reply: which of them is meant nobody can tell.
    assert [(item["value"], item["call"]) for item in session["rewards"]] == [(1.0, only.id), (2.0, "chatcmpl-2")]
    [leased] = await client.lease("live", external=External(idle_s=0))
    assert [item.call for item in leased.group.trajectories[0].rewards] == [only.id, "chatcmpl-2"]
