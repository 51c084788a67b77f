"""A call that the proxy's name vouched for and that is none: its session is refused by name, its group is dropped."""

import pytest
from ingest_world import call, finish, group, request_of
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from nexrl import attributes as at
from nexrl.records import Reward
from nexrl.spans import span_of
from nexrl_ingest.client import Rule
from nexrl_ingest.groups import ledger
from nexrl_ingest.otlp.evaluations import Judgement
from nexrl_ingest.sessions import judging

ON_BOTH_STORES = True


async def broken(ingest, session: str) -> str:
    """Store a call with half an object for its messages, as if the proxy had sent it; return its id."""
    span = span_of(call([1], [2], session=session, response="reply-1"), prompt_tokens=1)
    [messages] = [one for one in span.attributes if one.key == at.INPUT_MESSAGES]
    messages.value.CopyFrom(AnyValue(string_value='[{"role"'))
    request = request_of(span)
    request.resource_spans[0].scope_spans[0].scope.name = "nexrl_proxy"
    assert await ingest.post(request.SerializeToString()) == (200, b"")
    return span.span_id.hex()


@pytest.mark.parametrize("rule", [Rule(), Rule(max_staleness=1)], ids=["no rule", "max_staleness"])
async def test_a_group_that_cannot_be_read_is_dropped_and_counted_and_the_others_are_leased(
    ingest, client, caplog, rule
):
    await broken(ingest, "bad-0")
    for name in ("first", "bad", "last"):
        await finish(client, group(name, size=1))
    asked = {"limit": 3, "rule": rule, "weight_version": 9}
    assert [item.group.group.id for item in await client.lease("run-1", **asked)] == ["first", "last"]
    states = {item.id: (item.state, item.dropped) for item in await client.groups("run-1")}
    assert states == {"first": ("leased", None), "bad": ("dropped", "unreadable"), "last": ("leased", None)}
    state = await client.run("run-1")
    assert (state.dropped, state.measures.sessions, state.measures.calls) == ({"group:unreadable": 1}, 3, 1)
    held = "SELECT group_id FROM leases WHERE state = 'leased' ORDER BY group_id"
    assert await ingest.store.read(lambda connection: connection.fetch(held)) == [("first",), ("last",)]
    assert [item.group.group.id for item in await client.lease("run-1", steal=True, **asked)] == ["first", "last"]
    assert caplog.text.count("group 'bad' is dropped: session 'bad-0' has a call that cannot be read: span ") == 1


@pytest.mark.parametrize("path", ["", "/trajectory", "/calls"])
async def test_a_session_that_cannot_be_read_is_refused_by_its_name_and_its_spans(ingest, path):
    span = await broken(ingest, "bad")
    status, reply = await ingest.ask("GET", f"/api/sessions/bad{path}")
    assert (status, reply["error"]["type"]) == (422, "unreadable")
    assert f"session 'bad' has a call that cannot be read: span {span}: " in reply["error"]["message"]


async def test_a_judgement_of_a_session_that_cannot_be_read_is_of_the_whole_session(ingest):
    await broken(ingest, "bad")
    reward = Reward(name="thumbs", value=1.0, id="j")
    judgement = Judgement(session="bad", trace_id=b"t" * 16, span_id=b"s" * 8, response="reply-1", reward=reward)
    await ingest.store.write(lambda connection: judging.give(connection, judgement, 1))
    [kept] = await ingest.store.read(lambda connection: ledger.rewards_of(connection, "bad"))
    assert (kept.name, kept.call) == ("thumbs", None)
