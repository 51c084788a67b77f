"""vLLM: its ids and logprobs as they are, and exact only where its logprobs are those of what was sampled from."""

import asyncio

import pytest
from hearing import Heard, hear
from proxy_world import served
from scripted_vllm import Sampled, ScriptedVllm

from nexrl.records import Int32s
from nexrl_proxy.engines import Completion, EngineLost, Work
from nexrl_proxy.engines.kinds import Serving, engines_of
from nexrl_proxy.engines.vllm import are_exact
from nexrl_proxy.errors import ApiError

SAYS = Sampled(ids=[5, 6, 1], logprobs=[-0.5, -0.25, -1.0], stop_reason=1)


def work(**changes) -> Work:
    given = {"rid": "r-1", "ids": Int32s([3, 4]), "params": {"temperature": 1.0}, "stream": True}
    return Work(**{**given, **changes})


def engine_at(url: str, **serving):
    [engine] = engines_of(url, Serving(kind="vllm", **serving))
    return engine


async def completed(engine, asked: Work) -> tuple[Completion, int]:
    heard = await hear(engine, asked)
    return heard.completion, heard.times


@pytest.mark.parametrize("stream", [False, True])
async def test_a_completion_is_what_was_sampled(stream):
    scripted = ScriptedVllm(SAYS)
    async with served(scripted.app) as url:
        engine = engine_at(url)
        engine.adopt(4)
        got, _ = await completed(engine, work(stream=stream))
    assert (list(got.ids), list(got.logprobs), got.exact) == (SAYS.ids, SAYS.logprobs, True)
    assert (list(got.weight_versions), got.finish, got.matched) == ([4, 4, 4], "stop", 1)
    assert (got.prompt_tokens, got.completion_tokens, got.cached_tokens) == (2, 3, 0 if stream else 2)
    assert got.top_logprobs is None


async def test_parameters_get_vllms_names_and_none_is_left_to_its_defaults():
    scripted = ScriptedVllm(SAYS)
    params = {"temperature": 0.5, "max_new_tokens": 9, "sampling_seed": 3, "stop_token_ids": [1], "stop": ["x"]}
    params |= {"logit_bias": {"7": 2.0}, "regex": "a+", "min_new_tokens": 4, "ignore_eos": True}
    async with served(scripted.app) as url:
        await completed(engine_at(url), work(params=params, stream=False))
    assert scripted.requests == [
        {
            "temperature": 0.5, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "frequency_penalty": 0.0,
            "presence_penalty": 0.0, "repetition_penalty": 1.0, "max_tokens": 9, "seed": 3, "stop_token_ids": [1],
            "stop": ["x"], "logit_bias": {"7": 2.0}, "structured_outputs": {"regex": "a+"}, "prompt": [3, 4],
            "min_tokens": 4, "ignore_eos": True,
            "request_id": "r-1", "logprobs": 0, "return_token_ids": True, "return_tokens_as_token_ids": True,
            "stream": False,
        }
    ]  # fmt: skip


@pytest.mark.parametrize("stream", [False, True])
async def test_as_many_alternatives_as_asked_for_likeliest_first(stream):
    async with served(ScriptedVllm(SAYS).app) as url:
        got, _ = await completed(engine_at(url), work(stream=stream, top_logprobs=1))
    assert got.top_logprobs == [[(-0.01, 7)]] * 3


@pytest.mark.parametrize(
    ("params", "raw", "processed"),
    [
        ({}, True, True),
        ({"temperature": 1.0, "top_p": 1, "top_k": 0, "frequency_penalty": 0}, True, True),
        ({"temperature": 0.7}, False, True),
        ({"temperature": 0}, True, True),
        ({"top_p": 0.9}, True, False),
        ({"top_k": 20}, True, False),
        ({"min_p": 0.1, "temperature": 0.7}, False, False),
        ({"repetition_penalty": 1.1}, False, True),
        ({"logit_bias": {"5": 1.0}}, False, True),
        ({"json_schema": "{}"}, False, True),
        ({"min_new_tokens": 8}, False, True),
        ({"ignore_eos": True, "min_new_tokens": 0}, True, True),
    ],
)
def test_logprobs_are_exact_where_they_are_those_of_what_was_sampled_from(params, raw, processed):
    assert (are_exact(params, processed=False), are_exact(params, processed=True)) == (raw, processed)


@pytest.mark.parametrize("processed", [False, True])
async def test_the_operators_word_about_logprobs_decides(processed):
    async with served(ScriptedVllm(SAYS).app) as url:
        engine = engine_at(url, processed_logprobs=processed)
        got, _ = await completed(engine, work(params={"temperature": 0.7}))
    assert (got.exact, list(got.ids), list(got.logprobs)) == (processed, SAYS.ids, SAYS.logprobs)


async def test_a_token_without_a_logprob_makes_a_completion_inexact():
    says = Sampled(ids=[5, 6], logprobs=[-0.5, None])
    async with served(ScriptedVllm(says).app) as url:
        got, _ = await completed(engine_at(url), work())
    assert (list(got.ids), got.exact) == ([5, 6], False)


async def test_weights_that_change_under_a_completion_make_it_inexact():
    async with served(ScriptedVllm(SAYS).app) as url:
        engine = engine_at(url)
        heard = Heard(then=lambda: engine.adopt(1))
        await hear(engine, work(), heard)
    assert not heard.completion.exact


@pytest.mark.parametrize(("stream", "kept"), [(False, []), (True, [5, 6])])
async def test_an_abort_closes_the_connection_and_keeps_what_had_arrived(stream, kept):
    scripted = ScriptedVllm(Sampled(ids=[5, 6, 1], logprobs=[-0.5, -0.25, -1.0], hang_before=2))
    async with served(scripted.app) as url:
        engine = engine_at(url)
        asking = asyncio.create_task(completed(engine, work(stream=stream)))
        await scripted.hanging.wait()
        await engine.abort("another")
        await engine.abort("r-1")
        got, _ = await asking
        await asyncio.wait_for(scripted.left.wait(), 5)
    assert (list(got.ids), got.finish, got.message) == (kept, "abort", "aborted by request")


@pytest.mark.parametrize("failure", [{"break_before": 2}, {"error_before": 2}])
async def test_an_engine_that_is_lost_midway_leaves_what_it_had_sent(failure):
    scripted = ScriptedVllm(Sampled(ids=[5, 6, 1], logprobs=[-0.5, -0.25, -1.0], **failure))
    heard = Heard()
    async with served(scripted.app) as url:
        with pytest.raises(EngineLost, match=url):
            await hear(engine_at(url), work(), heard)
    completion = heard.completion
    assert (list(completion.ids), completion.exact, completion.finish) == ([5, 6], True, None)


async def test_a_vllm_that_gives_no_ids_is_named_and_not_guessed_at():
    scripted = ScriptedVllm(Sampled(ids=[5], logprobs=[-0.5], knows_token_ids=False))
    async with served(scripted.app) as url:
        with pytest.raises(ApiError, match="no token ids; use vLLM"):
            await completed(engine_at(url), work())


@pytest.mark.parametrize(
    ("finish", "shown", "message"), [("length", "length", ""), ("repetition", "abort", "repetition")]
)
async def test_an_end_this_project_has_no_word_for_is_an_abort_that_says_so(finish, shown, message):
    scripted = ScriptedVllm(Sampled(ids=[5], logprobs=[-0.5], finish=finish))
    async with served(scripted.app) as url:
        got, _ = await completed(engine_at(url), work())
    assert (got.finish, got.message) == (shown, message)


@pytest.mark.parametrize(("changes", "name"), [({"params": {"ebnf": "x"}}, "ebnf"), ({"ids": Int32s()}, "empty")])
def test_what_vllm_cannot_honour_is_refused_by_name(changes, name):
    with pytest.raises(ApiError, match=name):
        engine_at("http://127.0.0.1:1").check(work(**changes))


async def test_health_is_asked_for():
    async with served(ScriptedVllm(SAYS).app) as url:
        engine = engine_at(url)
        assert await engine.healthy()
        await engine.close()
    assert not await engine.healthy()
