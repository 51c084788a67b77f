"""OpenAI-compatible upstreams: the client's request goes through, what is said comes back, and nothing is exact."""

import asyncio

import msgspec
import pytest
from hearing import Heard, hear
from proxy_world import served, until
from raw_server import plain, raw
from scripted_openai import ScriptedOpenAI

from nexrl.records import Int32s
from nexrl_proxy.engines import Completion, EngineLost, Work
from nexrl_proxy.engines.kinds import Serving, engines_of, with_api
from nexrl_proxy.errors import ApiError
from nexrl_proxy.parsers import Content, Reasoning
from nexrl_proxy.reading import Called

REQUEST = {"model": "gpt-x", "messages": [{"role": "user", "content": "hi"}]}


def work(*, stream: bool = True, params=None, request=None, **more) -> Work:
    body = msgspec.json.encode({**REQUEST, **(request or {})})
    return Work(rid="r-1", ids=Int32s(), params=params or {}, stream=stream, request=body, **more)


def engine_at(url: str, **serving):
    [engine] = engines_of(url, Serving(kind="openai", **serving))
    return engine


async def completed(engine, asked: Work) -> tuple[Completion, int]:
    heard = await hear(engine, asked)
    return heard.completion, heard.times


@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_said_comes_back_with_the_upstreams_own_count_and_is_not_exact(stream):
    scripted = ScriptedOpenAI()
    async with served(scripted.app) as url:
        got, seen = await completed(engine_at(url), work(stream=stream))
    assert "".join(delta.text for delta in got.spoken) == "hello"
    assert (got.finish, got.exact, list(got.ids)) == ("stop", False, [])
    assert (got.prompt_tokens, got.completion_tokens, got.cached_tokens) == (11, 5, 3)
    assert seen == (5 if stream else 1)


async def test_the_request_goes_through_with_the_upstreams_model_name_and_key():
    scripted = ScriptedOpenAI()
    given = {"tools": [{"type": "function"}], "stop": ["x"], "metadata": {"a": "b"}, "n": 3, "max_tokens": 50}
    async with served(scripted.app) as url:
        params = {"temperature": 0.5, "sampling_seed": 2, "max_new_tokens": 20, "stop_token_ids": [1]}
        params |= {"min_new_tokens": 4, "ignore_eos": True}
        await completed(engine_at(url, key="k", model="real"), work(stream=False, request=given, params=params))
        await completed(engine_at(url), work(request={"n": 1}))
    named, plainly = scripted.requests
    kept = {"tools": [{"type": "function"}], "stop": ["x"], "metadata": {"a": "b"}, "max_tokens": 20}
    kept |= {"min_tokens": 4, "ignore_eos": True}
    assert named == {**REQUEST, **kept, "model": "real", "temperature": 0.5, "seed": 2, "stream": False}
    assert plainly == {**REQUEST, "stream": True, "stream_options": {"include_usage": True}}
    assert scripted.keys == ["Bearer k", None]


def call(index, name=None, arguments=None, **more):
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    index = {} if index is None else {"index": index}
    return {"tool_calls": [{**index, "type": "function", "function": function, **more}]}


FRAGMENTS = {
    "as OpenAI cuts them": [
        call(0, "look", "", id="c-1"),
        call(0, None, '{"a"'),
        call(0, None, ":1}"),
        call(1, "find", "", id="c-2"),
        call(1, None, "{}"),
    ],
    "one index for all": [call(0, "look", '{"a":1}', id="c-1"), call(0, "find", "{}", id="c-2")],
    "no index at all": [call(None, "look", '{"a":1}', id="c-1"), call(None, "find", "{}", id="c-2")],
    "no arguments": [call(0, "look", '{"a":1}', id="c-1"), call(1, "find", id="c-2")],
}


@pytest.mark.parametrize("style", FRAGMENTS)
async def test_streamed_tool_calls_are_told_whole_however_the_upstream_cuts_them(style):
    scripted = ScriptedOpenAI()
    scripted.deltas, scripted.finish = FRAGMENTS[style], "tool_calls"
    async with served(scripted.app) as url:
        got, _ = await completed(engine_at(url), work())
    assert got.spoken == [Called(0, "c-1", "look", '{"a":1}'), Called(1, "c-2", "find", "{}")]
    assert got.finish == "stop"


async def test_a_plain_reply_holds_reasoning_content_and_calls_in_this_order():
    scripted = ScriptedOpenAI()
    scripted.message = {"content": "so", "reasoning": "hm", **call(None, "look", "{}")}
    async with served(scripted.app) as url:
        got, _ = await completed(engine_at(url), work(stream=False))
    thought, content, called = got.spoken
    assert (thought, content, called.name) == (Reasoning("hm"), Content("so"), "look")
    assert called.id.startswith("call_")


@pytest.mark.parametrize(("said", "finish"), [("length", "length"), ("content_filter", "stop")])
async def test_how_it_ended_is_told_in_this_projects_words(said, finish):
    scripted = ScriptedOpenAI()
    scripted.finish = said
    async with served(scripted.app) as url:
        got, _ = await completed(engine_at(url), work())
    assert (got.finish, got.message) == (finish, "" if said == finish else said)


@pytest.mark.parametrize(
    ("status", "raised", "shown", "code"),
    [
        (400, ApiError, 400, "engine_refused"),
        (404, ApiError, 404, "engine_refused"),
        (429, ApiError, 429, "engine_refused"),
        (401, ApiError, 502, "engine_misconfigured"),
        (500, EngineLost, None, None),
    ],
)
async def test_an_upstreams_error_says_whose_it_is(status, raised, shown, code):
    scripted = ScriptedOpenAI()
    scripted.refusal = (status, {"error": {"message": "because", "type": "x"}})
    async with served(scripted.app) as url:
        with pytest.raises(raised, match="because") as caught:
            await completed(engine_at(url), work())
    assert (getattr(caught.value, "status", None), getattr(caught.value, "code", None)) == (shown, code)


async def test_a_stream_that_ends_without_a_finish_is_lost_and_keeps_what_was_said():
    scripted = ScriptedOpenAI()
    scripted.finish = None
    heard = Heard()
    async with served(scripted.app) as url:
        with pytest.raises(EngineLost, match="ended before"):
            await hear(engine_at(url), work(), heard)
    assert heard.completion.spoken == [Content("hel"), Content("lo")]


async def test_an_abort_closes_the_connection_and_keeps_what_was_said():
    scripted = ScriptedOpenAI()
    scripted.hangs = True
    async with served(scripted.app) as url:
        engine, heard = engine_at(url), Heard()
        asking = asyncio.create_task(hear(engine, work(), heard))
        await until(lambda: len(heard.completion.spoken) == 2)
        await engine.abort("r-1")
        await asyncio.wait_for(scripted.left.wait(), 5)
        await asking
    assert (heard.completion.finish, heard.completion.spoken) == ("abort", [Content("hel"), Content("lo")])


@pytest.mark.parametrize(
    "asked",
    [work(top_logprobs=2), work(request={"logprobs": True}), Work(rid="r", ids=Int32s([1]), params={}, stream=False)],
    ids=["alternatives", "logprobs", "token ids"],
)
def test_what_an_upstream_of_text_cannot_honour_is_refused(asked):
    with pytest.raises(ApiError) as caught:
        engine_at("http://127.0.0.1:1").check(asked)
    assert caught.value.param in ("logprobs", "prompt")


async def test_an_upstream_that_lists_no_models_is_healthy_and_a_broken_one_is_not():
    async with raw([plain(b"", status="404 Not Found")], [plain(b"", status="502 Bad Gateway")]) as server:
        engine = engine_at(server.url)
        assert [await engine.healthy(), await engine.healthy()] == [True, False]
        await engine.close()


def test_a_base_url_without_a_path_gets_v1():
    urls = ["http://h:1", "http://h:1/", "http://h:1/v1", "https://openrouter.ai/api/v1"]
    assert [with_api(url) for url in urls] == ["http://h:1/v1", "http://h:1/v1", *urls[2:]]
