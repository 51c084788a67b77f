"""Who called: from path and headers to an attempt, and nothing more than a key allows."""

import pytest
from multidict import CIMultiDict
from proxy_world import ADMIN, world_of

from nexrl.keys import attempt_key, read_key, reward_grant
from nexrl_proxy.attribution import UNATTRIBUTED, caller_of
from nexrl_proxy.errors import ApiError
from nexrl_proxy.serve import is_loopback

KEY = attempt_key("a-1", ADMIN)
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
HELLO = [{"role": "user", "content": "hello"}]


def caller(prefix=None, *, require_session=False, require_key=False, **headers):
    named = CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()})
    required = {"require_session": require_session, "require_key": require_key}
    return caller_of(prefix=prefix, headers=named, admin_key=ADMIN, **required)


@pytest.mark.parametrize(
    ("prefix", "headers", "session"),
    [
        ("a-2", {}, "a-2"),
        ("a-2", {"authorization": "Bearer sk-proj-123"}, "a-2"),
        (None, {"authorization": f"Bearer {KEY}"}, "a-1"),
        (None, {"authorization": f"bearer  {KEY}"}, "a-1"),
        (None, {"x-api-key": KEY}, "a-1"),
        ("a-1", {"x-api-key": KEY, "x-nexrl-session": "a-9"}, "a-1"),
        (None, {"x-nexrl-session": "a-3", "traceparent": TRACE}, "a-3"),
        (None, {"baggage": "user=x, nexrl.session = a%2D4;ttl=1", "traceparent": TRACE}, "a-4"),
        (None, {"traceparent": TRACE}, "4bf92f3577b34da6a3ce929d0e0e4736"),
        (None, {"traceparent": "00-" + "0" * 32 + "-00f067aa0ba902b7-01"}, UNATTRIBUTED),
        (None, {"traceparent": "nonsense"}, UNATTRIBUTED),
        (None, {}, UNATTRIBUTED),
        ("a-5", {"authorization": f"Bearer {ADMIN}"}, "a-5"),
    ],
)
def test_the_first_that_names_an_attempt_decides(prefix, headers, session):
    assert caller(prefix, **headers).session == session


@pytest.mark.parametrize(
    ("prefix", "headers", "status"),
    [
        (None, {"authorization": f"Bearer {KEY[:-1]}x"}, 401),
        ("a-1", {"x-api-key": "nxr-a-1.forged"}, 401),
        ("a-2", {"authorization": f"Bearer {KEY}"}, 403),
        (None, {"x-api-key": KEY, "x-nexrl-session": "a-2"}, 403),
        (None, {"x-api-key": KEY, "baggage": "nexrl.session=a-2"}, 403),
        (None, {"x-api-key": KEY, "authorization": f"Bearer {attempt_key('a-2', ADMIN)}"}, 403),
        (None, {"authorization": f"Bearer {read_key(ADMIN)}"}, 403),
        ("a-1", {"x-api-key": reward_grant("a-1", ADMIN)}, 403),
        (None, {"x-nexrl-session": "../../etc"}, 400),
    ],
)
def test_a_wrong_key_is_401_and_a_key_for_another_attempt_403(prefix, headers, status):
    with pytest.raises(ApiError) as raised:
        caller(prefix, **headers)
    assert raised.value.status == status


def test_a_sub_agent_and_the_callers_trace_are_kept():
    who = caller("a-1", x_nexrl_agent="searcher", traceparent=TRACE)
    assert (who.agent, who.parent_span.hex()) == ("searcher", "00f067aa0ba902b7")
    assert who.trace_id is not None


def test_without_a_session_a_call_is_refused_where_one_is_required():
    with pytest.raises(ApiError, match="no session") as raised:
        caller(require_session=True, authorization="Bearer sk-1")
    assert raised.value.status == 401


@pytest.mark.parametrize(
    ("prefix", "headers"), [("a-1", {}), (None, {"x_nexrl_session": "a-1"}), (None, {"traceparent": TRACE})]
)
def test_where_a_key_is_required_naming_a_session_is_not_enough(prefix, headers):
    for key in ({}, {"authorization": "Bearer sk-1"}, {"authorization": f"Bearer {ADMIN}"}):
        with pytest.raises(ApiError, match="no attempt key") as raised:
            caller(prefix, require_key=True, **headers, **key)
        assert raised.value.status == 401
    assert caller(prefix, require_key=True, **headers, x_api_key=KEY).session == "a-1"


@pytest.mark.parametrize(
    ("host", "alone"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("db-1", False)],
)
def test_an_address_that_others_reach_is_known(host, alone):
    assert is_loopback(host) == alone


async def test_unattributed_calls_are_answered_recorded_and_counted(world):
    world.says("ok")
    status, _ = await world.post({"messages": HELLO}, authorization="Bearer sk-1")
    assert status == 200
    [call] = await world.recorded(UNATTRIBUTED)
    assert call.session == UNATTRIBUTED
    assert (await world.stats())["unattributed"] == 1


async def test_a_proxy_that_requires_sessions_answers_401_in_openais_shape(model_dir, tmp_path):
    async with world_of(model_dir("chatml"), tmp_path, require_session=True) as world:
        status, reply = await world.post({"messages": HELLO}, authorization="Bearer sk-1")
    assert (status, reply["error"]["code"]) == (401, "invalid_api_key")


async def test_a_call_joins_the_callers_trace_and_bears_the_names_it_gave(world):
    world.says("ok")
    await world.post({"messages": HELLO}, traceparent=TRACE, x_nexrl_agent="searcher", x_nexrl_group="ticket 7")
    [call] = await world.recorded()
    [span] = world.ingest.spans
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE[3:35], TRACE[36:52])
    assert (call.session, call.agent, call.group) == ("a-1", "searcher", "ticket 7")


@pytest.mark.parametrize("path", ["/api/sessions/a-1/flush", "/api/stats"])
async def test_an_attempt_key_does_not_reach_the_admin_routes(world, path):
    send = world.http.get if path.endswith("stats") else world.http.post
    async with send(world.url + path, headers={"authorization": f"Bearer {KEY}"}) as refused:
        assert refused.status == 403
    async with send(world.url + path) as refused:
        assert refused.status == 401


async def test_an_unknown_route_is_a_404_in_openais_shape(world):
    status, reply = await world.post({}, path="/v1/embeddings")
    assert status == 404
    assert "/v1/embeddings" in reply["error"]["message"]
