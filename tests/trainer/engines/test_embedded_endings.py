"""How requests end before their time: aborts, clients that leave, steps that fail, an engine that stops."""

import asyncio
import contextlib

import pytest
from embedded_world import logprobs_of, serve, true_logprobs, until


async def idle(client):
    """Return once no request holds a slot."""
    scheduler = client.engine.scheduler
    await until(lambda: not (scheduler._running or scheduler._waiting or client.engine.live))


async def test_an_aborted_request_returns_the_tokens_it_has(client, weights):
    running = asyncio.create_task(client.generate([7, 8, 9], rid="one", max_new_tokens=4000, ignore_eos=True))
    await asyncio.sleep(0.1)
    await client.post("/abort_request", {"rid": "one"})
    reply = await running
    assert reply["meta_info"]["finish_reason"] == {"type": "abort", "message": "aborted by request"}
    assert 0 < len(reply["output_ids"]) < 4000
    expected = true_logprobs(weights[0], [7, 8, 9], reply["output_ids"])
    assert logprobs_of(reply) == pytest.approx(expected, abs=1e-5)
    await idle(client)


async def test_a_request_aborted_while_it_waits_has_no_tokens(weights):
    async with serve(weights[0], slots=1) as client:
        first = asyncio.create_task(client.generate([7], rid="first", max_new_tokens=4000, ignore_eos=True))
        await asyncio.sleep(0.05)
        second = asyncio.create_task(client.generate([8], rid="second", max_new_tokens=5))
        await asyncio.sleep(0.05)
        await client.post("/abort_request", {"rid": "second"})
        reply = await second
        assert reply["output_ids"] == []
        assert reply["meta_info"]["weight_versions"] == []
        assert reply["meta_info"]["finish_reason"]["type"] == "abort"
        assert not first.done()
        await client.post("/abort_request", {"rid": "first"})
        await first


async def test_an_aborted_stream_closes_with_the_reason(client):
    events = []
    async for event in client.stream([7, 8, 9], rid="one", max_new_tokens=4000, ignore_eos=True):
        if not events:
            await client.post("/abort_request", {"rid": "one"})
        events.append(event)
    assert events[-1]["meta_info"]["finish_reason"]["type"] == "abort"


async def test_aborting_a_request_that_is_unknown_changes_nothing(client):
    assert await client.post("/abort_request", {"rid": "nobody"}) is None
    assert "`rid`" in (await client.post("/abort_request", {}, status=400))["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_frees_its_slot(weights, stream):
    async with serve(weights[0], slots=1) as client:

        async def leave():
            if not stream:
                await client.generate([7], max_new_tokens=4000, ignore_eos=True)
            async for _ in client.stream([7], max_new_tokens=4000, ignore_eos=True):
                pass

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.1):
                await leave()
        reply = await client.generate([8, 9], max_new_tokens=3, ignore_eos=True)
        assert len(reply["output_ids"]) == 3
        await idle(client)


async def test_a_step_that_fails_fails_its_requests_and_the_engine_goes_on(client, weights, capfd):
    model = client.engine.model
    forward, model.forward = model.forward, lambda _: 1 / 0
    plain = asyncio.create_task(client.generate([7, 8, 9], max_new_tokens=5, status=500))
    events = [event async for event in client.stream([7, 8], max_new_tokens=5)]
    answer = await plain
    model.forward = forward
    assert answer["error"] == {
        "message": "the step failed: ZeroDivisionError: division by zero",
        "type": "engine_error",
    }
    assert events == [{"error": answer["error"]}]
    assert "ZeroDivisionError" in capfd.readouterr().err
    reply = await client.generate([7, 8, 9], max_new_tokens=5)
    assert logprobs_of(reply) == pytest.approx(true_logprobs(weights[0], [7, 8, 9], reply["output_ids"]), abs=1e-5)
    await idle(client)


async def test_requests_under_way_when_the_engine_stops_are_answered(weights):
    async with serve(weights[0], slots=1) as client:
        tasks = [asyncio.create_task(client.generate([7], max_new_tokens=4000, ignore_eos=True)) for _ in range(2)]
        await asyncio.sleep(0.1)
        await asyncio.to_thread(client.engine.scheduler.stop)
        replies = await asyncio.gather(*tasks)
        assert {reply["meta_info"]["finish_reason"]["message"] for reply in replies} == {"the engine is stopping"}
        async with client.http.get("/health") as response:
            assert response.status == 503


async def test_health_is_ok_while_it_serves(client):
    async with client.http.get("/health") as response:
        assert response.status == 200
