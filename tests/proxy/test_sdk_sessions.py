"""What `nexrl.session` says arrives: clients as people have them, a real proxy, the calls that it recorded."""

import openai
import pytest

import nexrl
from nexrl.keys import attempt_key
from nexrl.sessions import with_session

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(autouse=True)
def undone(monkeypatch):
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_BASE_URL", "BAGGAGE"):
        monkeypatch.delenv(name, raising=False)
    yield
    nexrl.uninstrument()


async def ask(base, key="unused"):
    async with openai.AsyncOpenAI(base_url=base, api_key=key, max_retries=0) as client:
        await client.chat.completions.create(model="m", messages=HELLO)


async def test_calls_belong_to_the_session_group_and_agent_they_were_made_in(world):
    world.says("hi")
    nexrl.instrument(world.url)
    async with nexrl.session("ticket-1", group="größe") as session:
        await ask(f"{world.url}/v1")
        with nexrl.agent("kritiker ß"):
            await ask(f"{world.url}/v1")
    await ask(f"{world.url}/v1")
    calls = await world.recorded(session.id)
    assert [(call.group, call.agent) for call in calls] == [("größe", None), ("größe", "kritiker ß")]
    assert len(await world.recorded("unattributed")) == 1


async def test_a_subprocess_in_any_language_is_told_apart_by_its_address(world):
    world.says("hi")
    await ask(with_session(f"{world.url}/v1", "ticket-2"))
    assert len(await world.recorded("ticket-2")) == 1


async def test_headers_can_be_given_to_a_client_by_hand(world):
    world.says("hi")
    with nexrl.session("ticket-3", agent="planner") as session:
        async with openai.AsyncOpenAI(
            base_url=f"{world.url}/v1", api_key="unused", default_headers=session.headers
        ) as client:
            await client.chat.completions.create(model="m", messages=HELLO)
    assert [call.agent for call in await world.recorded("ticket-3")] == ["planner"]


async def test_a_client_whose_key_names_another_attempt_is_refused_and_nothing_is_misattributed(world):
    nexrl.instrument(world.url)
    with nexrl.session("ticket-4"), pytest.raises(openai.PermissionDeniedError, match="belongs to attempt 'a-1'"):
        await ask(f"{world.url}/v1", world.key())
    assert world.engine.requests == []


async def test_an_agent_that_a_trainer_started_stays_in_its_attempt(world, monkeypatch):
    world.says("hi")
    key = attempt_key("a-1", "an-admin-key-for-tests")
    monkeypatch.setenv("OPENAI_API_KEY", key)
    nexrl.instrument(world.url)
    with nexrl.session(agent="planner"):
        await ask(f"{world.url}/v1", key)
    assert [(call.session, call.agent) for call in await world.recorded("a-1")] == [("a-1", "planner")]
