"""What NexRL relies on of SGLang's native API, seen in a real server."""

import asyncio

import pytest
from msgspec import structs
from sglang_world import Heard, Server, some_tokens, work

from nexrl.errors import ServiceError
from nexrl_trainer.engines import generations
from nexrl_trainer.engines.colocation import CACHE, GRAPHS, WEIGHTS
from nexrl_trainer.engines.generations import Call
from nexrl_trainer.engines.tensors import buckets
from nexrl_trainer.engines.verification import Published, verify

PROMPT = [72, 101, 108, 108, 111, 44, 32]
LONG = 400


@pytest.mark.parametrize("params", [{}, {"temperature": 0.7}, {"temperature": 1.3, "top_p": 0.8, "top_k": 20}])
async def test_logprobs_are_those_of_the_softmax_at_the_temperature_not_renormalised(server: Server, params):
    reply = await server.generate(PROMPT, 40, **params)
    server.assert_sampled(reply, PROMPT, params.get("temperature", 1.0))


@pytest.mark.parametrize("stream", [False, True])
async def test_the_proxys_client_hears_every_token_once_with_its_logprob(server: Server, stream):
    heard = Heard()
    await server.engine.complete(work(f"heard-{stream}", PROMPT, 60, stream=stream), heard)
    assert heard.completion.finish == "length"
    assert [token for delta in heard.deltas for token in delta] == list(heard.completion.ids)
    assert len(heard.completion.ids) == 60
    assert (len(heard.deltas) > 1) == stream
    server.assert_completion(heard.completion, PROMPT)


async def test_several_requests_at_once_keep_their_own_tokens(server: Server):
    prompts = [[*PROMPT, *range(i, 3 * i)] for i in range(1, 9)]
    replies = await asyncio.gather(*(server.generate(prompt, 30) for prompt in prompts))
    for prompt, reply in zip(prompts, replies, strict=True):
        server.assert_sampled(reply, prompt)


async def test_an_aborted_request_keeps_the_tokens_it_had(server: Server):
    engine, heard = server.engine, Heard()
    running = asyncio.create_task(engine.complete(work("aborted", PROMPT, 3000, stream=True), heard))
    await some_tokens(heard, 10)
    await engine.abort("aborted")
    await running
    assert heard.completion.finish == "abort"
    assert 10 <= len(heard.completion.ids) < 3000
    server.assert_completion(heard.completion, PROMPT)


async def test_weights_from_disk_sample_the_very_next_token_under_their_version(server: Server):
    before = server.version
    version = await server.publish()
    assert version == before + 1
    assert await server.client.version() == str(version)
    assert server.assert_sampled(await server.generate(PROMPT, 20), PROMPT) == [version]


async def test_weights_from_tensors_sample_the_very_next_token_under_their_version(server: Server):
    folder, version = server.other_weights(), server.version + 1
    generation = await server.client.generation("sglang")
    running = asyncio.create_task(server.generate(PROMPT, LONG))
    await asyncio.sleep(0.3)
    await server.client.update(generations.from_tensors(generation, buckets(folder, most=40_000), version))
    server.folders[version] = folder
    assert server.assert_sampled(await server.generate(PROMPT, 20), PROMPT) == [version]
    assert server.assert_sampled(await running, PROMPT) == [version - 1, version]


async def test_tensors_that_break_off_halfway_leave_requests_aside_until_a_whole_update(server: Server):
    folder, version = server.other_weights(), server.version + 1
    generation = await server.client.generation("sglang")
    whole = generations.from_tensors(generation, buckets(folder, most=40_000), version)
    # Tensors that are none would kill the scheduler of 0.5.23; a request without any is refused.
    broken = structs.replace(whole, load=[next(iter(whole.load)), Call("/update_weights_from_tensor")])
    with pytest.raises(ServiceError, match=f"refused weight version {version} at /update_weights_from_tensor"):
        await server.client.update(broken)
    waiting = asyncio.create_task(server.generate(PROMPT, 20))
    await asyncio.sleep(1.0)
    assert not waiting.done()
    await server.client.update(generations.from_tensors(generation, buckets(folder), version))
    server.folders[version] = folder
    assert server.assert_sampled(await waiting, PROMPT) == [version]


async def test_what_the_server_holds_is_what_was_published_tensor_by_tensor(server: Server):
    version = await server.publish()
    verify("sglang", version, Published(server.folders[version]), await server.client.checksums())
    with pytest.raises(ServiceError, match=r"something else than weight version .* in model\.embed_tokens\.weight"):
        verify("sglang", version, Published(server.other_weights()), await server.client.checksums())


async def test_weights_that_do_not_fit_are_refused_by_name_and_requests_go_on(server: Server, tmp_path):
    update = generations.from_folder(await server.client.generation("sglang"), tmp_path, server.version + 1)
    running = asyncio.create_task(server.generate(PROMPT, LONG))
    await asyncio.sleep(0.3)
    with pytest.raises(ServiceError, match=f"refused weight version {server.version + 1}"):
        await server.client.update(update)
    assert server.assert_sampled(await running, PROMPT) == [server.version]


async def test_an_update_under_running_requests_leaves_every_token_the_weights_that_sampled_it(server: Server):
    prompts = [[*PROMPT, 48 + i] for i in range(4)]
    old = server.version
    heard = Heard()
    streamed = asyncio.create_task(server.engine.complete(work("in-flight", PROMPT, LONG, stream=True), heard))
    plain = [asyncio.create_task(server.generate(prompt, LONG)) for prompt in prompts]
    await some_tokens(heard, 20)
    first = await server.publish()
    tokens = len(heard.completion.ids)
    await some_tokens(heard, tokens + 20)
    second = await server.publish()
    for prompt, running in zip(prompts, plain, strict=True):
        assert server.assert_sampled(await running, prompt) == [old, first, second]
    await streamed
    assert sorted(set(heard.completion.weight_versions)) == [old, first, second]
    server.assert_completion(heard.completion, PROMPT)
    # Nothing of the old weights is left in the prefix cache.
    for prompt in prompts:
        assert server.assert_sampled(await server.generate(prompt, 10), prompt) == [second]


async def test_a_pause_in_place_keeps_what_runs_where_it_is(server: Server):
    heard, version = Heard(), server.version
    running = asyncio.create_task(server.engine.complete(work("paused", PROMPT, LONG, stream=True), heard))
    await some_tokens(heard, 10)
    await server.post("/pause_generation", {"mode": "in_place"})
    await asyncio.sleep(0.5)
    paused_at = len(heard.completion.ids)
    await asyncio.sleep(0.5)
    assert 10 <= len(heard.completion.ids) == paused_at < LONG
    await server.post("/continue_generation", {})
    await running
    assert len(heard.completion.ids) == LONG
    assert set(heard.completion.weight_versions) == {version}
    server.assert_completion(heard.completion, PROMPT)


async def test_memory_that_was_given_away_comes_back_with_the_new_weights(server: Server):
    """On a CPU there is nothing to give away; what is seen is that the server answers so and goes on."""
    generation, version = await server.client.generation("sglang"), server.version + 1
    await server.client.release_memory()
    await server.client.resume_memory([WEIGHTS, GRAPHS])
    folder = server.other_weights()
    await server.client.update(generations.from_folder(generation, folder, version))
    await server.client.resume_memory([CACHE])
    server.folders[version] = folder
    assert server.assert_sampled(await server.generate(PROMPT, 20), PROMPT) == [version]
