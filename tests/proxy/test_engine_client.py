"""What the engine does wrong, and what the agent is told."""

import pytest
from scripted_engine import Line

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch):
    async def at_once(_: int) -> None:
        return

    monkeypatch.setattr("nexrl_proxy.sampling._backoff", at_once)


async def test_a_refusal_of_the_engine_is_the_clients_400(world):
    world.engine.script = lambda _: Line(ids=[], status=400, message="top_k must be positive")
    status, reply = await world.post({"messages": HELLO})
    assert status == 400
    assert "top_k must be positive" in reply["error"]["message"]
    assert len(world.engine.requests) == 1
    assert await world.flush() == 0


async def test_a_prompt_too_long_for_the_engine_gets_openais_code(world):
    message = "The input (99 tokens) is longer than the model's context length (64 tokens)."
    world.engine.script = lambda _: Line(ids=[], status=400, message=message)
    status, reply = await world.post({"messages": HELLO})
    assert (status, reply["error"]["code"]) == (400, "context_length_exceeded")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "failure", [{"status": 503}, {"break_before": 0}, {"finish": {"type": "abort", "message": "paused"}}]
)
async def test_while_nothing_was_produced_the_engine_is_asked_again(world, stream, failure):
    lines = [Line(ids=[] if "finish" in failure else [300], **failure), Line(ids=world.ids("ok"))]
    world.engine.script = lambda _: lines.pop(0)
    status, _ = await world.post({"messages": HELLO}) if not stream else (200, await streamed(world))
    assert status == 200
    [call] = await world.recorded()
    assert list(call.completion) == world.ids("ok")
    assert len({asked["rid"] for asked in world.engine.requests}) == 2


async def streamed(world) -> None:
    headers = {"authorization": f"Bearer {world.key()}"}
    body = {"messages": HELLO, "stream": True}
    async with world.http.post(f"{world.url}/v1/chat/completions", json=body, headers=headers) as reply:
        assert (await reply.text()).endswith("data: [DONE]\n\n")


async def test_an_engine_that_stays_away_is_a_503_that_names_it_and_records_nothing(world):
    world.engine.script = lambda _: Line(ids=[], status=503, message="loading")
    status, reply = await world.post({"messages": HELLO})
    assert (status, reply["error"]["code"]) == (503, "engine_unavailable")
    assert "loading" in reply["error"]["message"]
    assert len(world.engine.requests) == 4
    assert await world.flush() == 0


async def test_one_failed_choice_does_not_lose_the_others(world):
    lines = [Line(ids=world.ids("ok")), Line(ids=[], status=400, message="no")]
    world.engine.script = lambda _: lines.pop(0)
    status, _ = await world.post({"messages": HELLO, "n": 2})
    assert status == 400
    assert len(await world.recorded()) == 1
