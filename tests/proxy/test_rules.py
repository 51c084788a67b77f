"""What a deployment rules: sampling parameters by mode, how much a session may ask, what is recognised by its bytes."""

import asyncio
import io
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from proxy_world import world_of
from thorough import examples

from nexrl.attributes import REQUEST_TEMPERATURE, REQUEST_TOP_P, SAMPLING
from nexrl.errors import ConfigError
from nexrl.records import Call, Float32s, Int32s
from nexrl.spans import attributes_of
from nexrl_proxy.attribution import Caller
from nexrl_proxy.conversation import Sessions
from nexrl_proxy.dialects.chat import ChatDialect
from nexrl_proxy.errors import ApiError
from nexrl_proxy.limits import Limits
from nexrl_proxy.parsers.choose import Parsers
from nexrl_proxy.planning import Planner
from nexrl_proxy.policy import SamplingPolicy, policy_of
from nexrl_proxy.prefixes import Prefixes
from nexrl_proxy.render import Renderer
from nexrl_proxy.restoring import held_of
from nexrl_proxy.talk import place_of

HELLO = [{"role": "user", "content": "hello"}]
POLICY = (
    '{"train": {"force": {"temperature": 1.0, "top_k": null}, "default": {"top_p": 0.9, "max_new_tokens": 7}},'
    ' "eval": {"default": {"temperature": 0.6}}}'
)


@pytest.mark.parametrize(
    ("attempt", "asked", "effective"),
    [
        ("a-1", {"temperature": 0, "top_k": 5}, {"temperature": 1.0, "top_p": 0.9, "max_new_tokens": 7}),
        ("a-1", {"top_p": 0.5, "max_tokens": 3}, {"temperature": 1.0, "top_p": 0.5, "max_new_tokens": 3}),
        ("a-1@eval", {}, {"temperature": 0.6}),
        ("a-1@eval", {"temperature": 0, "top_k": 5}, {"temperature": 0.0, "top_k": 5}),
        ("a-1@evaluation", {"temperature": 0}, {"temperature": 1.0, "top_p": 0.9, "max_new_tokens": 7}),
    ],
)
async def test_what_is_in_force_reaches_the_engine_and_stands_in_the_record(
    model_dir, tmp_path, attempt, asked, effective
):
    async with world_of(model_dir("chatml"), tmp_path, policy=policy_of(POLICY)) as world:
        world.says("ok")
        await world.chat(HELLO, attempt=attempt, **asked)
        params = world.engine.requests[0]["sampling_params"]
        params.pop("stop_token_ids")
        if "max_new_tokens" not in effective:
            params.pop("max_new_tokens")
        assert params == effective
        [call] = await world.recorded(attempt)
        assert effective.items() <= call.sampling.items()
        assert call.temperature == effective["temperature"]
        values = attributes_of(world.ingest.spans[0])
        assert msgspec.json.decode(values[SAMPLING]) == call.sampling
        assert (values[REQUEST_TEMPERATURE], values.get(REQUEST_TOP_P)) == (
            effective["temperature"],
            effective.get("top_p"),
        )


async def test_a_policy_holds_in_every_dialect(model_dir, tmp_path):
    async with world_of(model_dir("chatml"), tmp_path, policy=policy_of(POLICY)) as world:
        world.says("ok")
        bodies: dict[str, dict[str, Any]] = {
            "/v1/chat/completions": {"messages": HELLO},
            "/v1/completions": {"prompt": "hello"},
            "/v1/responses": {"input": "hello"},
            "/v1/messages": {"messages": HELLO, "max_tokens": 9},
        }
        for path, body in bodies.items():
            status, _ = await world.post(body | {"temperature": 0, "model": "m"}, path=path)
            assert status == 200
        asked = [request["sampling_params"] for request in world.engine.requests]
        assert [params["temperature"] for params in asked] == [1.0] * 4
        assert [params["top_p"] for params in asked] == [0.9] * 4


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "--sampling"),
        ('{"test": {}}', "test"),
        ('{"train": {"temperature": 1}}', "temperature"),
        ('{"train": {"force": {"heat": 1}}}', "train: heat is unknown; choose from frequency_penalty"),
        ('{"eval": {"default": {"n": 2}}}', "eval: n is unknown"),
    ],
)
def test_a_policy_that_cannot_be_kept_is_refused_by_name(text, complaint):
    with pytest.raises(ConfigError, match=complaint):
        policy_of(text)


def test_without_a_policy_what_is_asked_is_in_force():
    assert SamplingPolicy().effective({}, "train") == {"temperature": 1.0}
    assert SamplingPolicy().effective({"temperature": 0.0, "top_k": 3}, "eval") == {"temperature": 0.0, "top_k": 3}


async def test_a_session_that_asks_too_often_is_told_when_to_come_back(model_dir, tmp_path):
    now = [100.0]
    limits = Limits(per_minute=2, clock=lambda: now[0])
    async with world_of(model_dir("chatml"), tmp_path, limits=limits) as world:
        world.says("ok")
        for _ in range(2):
            await world.chat(HELLO)
        headers = {"authorization": f"Bearer {world.key()}"}
        url = f"{world.url}/v1/chat/completions"
        async with world.http.post(url, json={"messages": HELLO}, headers=headers) as refused:
            body = await refused.json()
        assert (refused.status, refused.headers["retry-after"]) == (429, "30")
        assert (body["error"]["type"], body["error"]["code"]) == ("rate_limit_error", "rate_limit_exceeded")
        await world.chat(HELLO, attempt="a-2")
        now[0] += 30
        await world.chat(HELLO)
        assert (await world.post({"messages": HELLO}))[0] == 429
        assert len(await world.recorded()) == 3


@given(st.integers(1, 600), st.lists(st.floats(0, 30), max_size=40))
@examples(30)
def test_no_more_is_admitted_than_a_full_bucket_and_what_flowed_in(per_minute, pauses):
    now = [0.0]
    limits = Limits(per_minute=per_minute, clock=lambda: now[0])
    admitted = 0
    for pause in pauses:
        now[0] += pause
        try:
            limits.admit("a-1")
            admitted += 1
        except ApiError as error:
            now[0] += error.retry_after_s
            limits.admit("a-1")
            admitted += 1
    assert admitted <= per_minute + now[0] * per_minute / 60 + 1e-3


async def test_a_body_that_is_too_large_is_refused_with_the_remedy_in_every_dialect(model_dir, tmp_path):
    async with world_of(model_dir("chatml"), tmp_path, limits=Limits(body_mb=1)) as world:
        for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"):
            headers = {"authorization": f"Bearer {world.key()}"}
            body = io.BytesIO(b'{"messages": "' + b"x" * 2**20 + b'"}')
            async with world.http.post(world.url + path, data=body, headers=headers) as refused:
                reply = await refused.json()
            assert refused.status == 413
            assert "1 MiB" in reply["error"]["message"]
            assert "--max-body-mb" in reply["error"]["message"]
        assert world.engine.requests == []


KINDS, DATA = st.sampled_from([b"a", b"bb"]), st.lists(st.sampled_from([b"x", b"y", b"xx"]), max_size=6).map(b"".join)


@given(st.integers(1, 6), st.lists(st.tuples(KINDS, DATA, st.integers()), max_size=30), KINDS, DATA)
@examples(80)
def test_the_longest_beginning_seen_is_found_among_the_latest(most, seen, kind, data):
    prefixes: Prefixes[int] = Prefixes(most)
    kept: dict[tuple[bytes, bytes], int] = {}
    for one, text, value in seen:
        prefixes.remember(one, text, value)
        kept.pop((one, text), None)
        kept[one, text] = value
        while len(kept) > most:
            kept.pop(next(iter(kept)))
    matching = [(len(text), value) for (one, text), value in kept.items() if one == kind and data.startswith(text)]
    known = prefixes.longest(kind, data)
    assert (known and (known.length, known.value)) == max(matching, default=None, key=lambda found: found[0])
    prefixes.remember(kind, data, -1, known=known)  # hashed from there on, it is the same string
    found = prefixes.longest(kind, data)
    assert found
    assert (found.length, found.value) == (len(data), -1)


SPACE = st.sampled_from([b"", b" ", b"\n\t "])
TEXTS = st.sampled_from(["a", "b", "é\n", '"},{"', "]", ""])
ROLES = st.sampled_from(["user", "assistant", "system", "tool", 7, None])


@st.composite
def bodies(draw: st.DrawFn) -> list[bytes]:
    """Return arrays of messages as they stand in bodies, most of which begin with an earlier one."""
    arrays: list[list[bytes]] = [[]]
    for _ in range(draw(st.integers(1, 5))):
        base = draw(st.sampled_from(arrays))
        base = base[: draw(st.integers(0, len(base)))] if draw(st.booleans()) else base
        more = [
            msgspec.json.encode({"role": draw(ROLES), "content": draw(TEXTS), "x": 1})
            for _ in range(draw(st.integers(1, 3)))
        ]
        arrays.append([*base, *more])
    return [b"[" + draw(SPACE) + (draw(SPACE) + b",").join(array) + draw(SPACE) + b"]" for array in arrays[1:]]


@given(bodies(), st.data())
@examples(15)
def test_bodies_recognised_by_their_bytes_are_what_decoding_all_of_them_gives(model_dir, sequence, data):
    recognised, decoded = [planner(model_dir("chatml")) for _ in range(2)]
    for body in sequence:
        tools = data.draw(st.sampled_from([b"", b'[{"type":"function","function":{"name":"f"}}]']))
        request = b'{"messages":' + body + (b',"tools":' + tools if tools else b"") + b"}"
        mine, theirs = (outcome(one, request, forget=one is decoded) for one in (recognised, decoded))
        assert mine == theirs


def planner(directory: Any) -> tuple[Planner, Sessions]:
    sessions = Sessions()
    parsers = Parsers(template="")
    return Planner(renderer=Renderer(directory), parsers=parsers, sessions=sessions), sessions


def outcome(made: tuple[Planner, Sessions], request: bytes, *, forget: bool) -> Any:
    """Plan a request, and answer it with `ok`."""
    plans, sessions = made
    session = sessions.get("a-1")
    if forget:
        session.bodies = Prefixes(1)
    try:
        plan = asyncio.run(plans.plan(ChatDialect().decode(request), Caller(session="a-1"), ChatDialect()))
    except ApiError as error:
        return str(error), error.param
    [prompt], talk = plan.prompts, plan.talk
    reply = {"role": "assistant", "content": "a"}
    call = Call(id=f"{len(session.calls):016x}", session="a-1", prompt_delta=prompt.delta, completion=Int32s([300]),
                logprobs=Float32s([-1]), weight_versions=Int32s([0]), reply=reply)  # fmt: skip
    session.hold(talk.history.digests[-1], held_of(call, prompt.parent, plans._renderer), reply)
    session.bodies.remember(talk.history.setting, talk.body.rstrip()[:-1].rstrip(), place_of(talk))
    new = talk.arrived[prompt.covered - talk.history.start :] if prompt.parent else talk.arrived
    return list(prompt.ids), list(prompt.delta), prompt.parent and prompt.parent.id, prompt.covered, prompt.drift, new
