"""SGLang's answers: every token once, with its own logprob and version, whatever the stream repeats."""

import asyncio
from itertools import pairwise

import msgspec
import pytest
from hearing import Heard, hear
from hypothesis import given
from hypothesis import strategies as st
from proxy_world import served, until
from raw_server import HANG_UP, chunked, plain, raw
from scripted_engine import Line, ScriptedEngine

from nexrl.records import Float32s, Int32s
from nexrl_proxy.engines import Completion, EngineLost, Work
from nexrl_proxy.engines.events import Events
from nexrl_proxy.engines.generated import LONG, Growth, VersionSpan, decode, versions_of
from nexrl_proxy.engines.kinds import Serving, engines_of
from nexrl_proxy.errors import ApiError


def work(**changes) -> Work:
    given = {"rid": "r-1", "ids": Int32s([1, 2]), "params": {"temperature": 0.5}, "stream": True}
    return Work(**{**given, **changes})


def engine_at(url: str):
    [engine] = engines_of(url, Serving(kind="sglang"))
    return engine


async def completed(url: str, asked: Work) -> tuple[Completion, int]:
    heard = await hear(engine_at(url), asked)
    return heard.completion, heard.times


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("shape", ["cumulative", "delta"])
async def test_either_shape_of_stream_adds_up_to_what_was_sampled(shape, stream):
    scripted = ScriptedEngine()
    line = Line(ids=[5, 6, 7, 7], shape=shape, finish={"type": "stop", "matched": 7})
    scripted.script = lambda _: line
    async with served(scripted.app) as url:
        got, seen = await completed(url, work(stream=stream))
    assert (list(got.ids), list(got.logprobs), got.exact) == (line.ids, line.logprobs, True)
    assert (got.finish, got.matched, list(got.weight_versions), got.cached_tokens) == ("stop", 7, [3] * 4, 2)
    assert (got.prompt_tokens, got.completion_tokens, got.top_logprobs, seen) == (2, 4, None, 4 if stream else 1)


async def test_a_field_is_sent_only_where_it_is_used():
    scripted = ScriptedEngine()
    scripted.script = lambda _: Line(ids=[5])
    async with served(scripted.app) as url:
        await completed(url, work(stream=False))
        await completed(url, work(stream=False, top_logprobs=2))
    plainly, with_top = scripted.requests
    assert set(plainly) == {"rid", "input_ids", "sampling_params", "return_logprob", "stream"}
    assert with_top["top_logprobs_num"] == 2


@st.composite
def streams(draw):
    """Draw a completion, and events of it that hold everything so far or only what is new."""
    ids = draw(st.lists(st.integers(0, 200_000), min_size=1, max_size=40))
    logprobs = draw(st.lists(st.floats(-80, 0, width=32), min_size=len(ids), max_size=len(ids)))
    ends = sorted({*draw(st.lists(st.integers(0, len(ids)), max_size=8)), len(ids)})
    return ids, logprobs, ends, draw(st.booleans())


@given(streams())
def test_every_sampled_token_arrives_once_with_its_own_logprob(stream):
    ids, logprobs, ends, whole = stream
    growth, before = Growth(), 0
    completion = growth.completion
    for end in ends:
        start = 0 if whole else before
        growth.take(decode(event(ids[start:end], logprobs[start:end], total=end)))
        assert list(completion.ids) == ids[:end]
        before = end
    assert completion.logprobs == Float32s(logprobs)
    assert completion.exact
    assert len(completion.weight_versions) == len(ids)


def event(ids, logprobs, *, total: int | None = None, **meta) -> bytes:
    pairs = [[logprob, token, None] for logprob, token in zip(logprobs, ids, strict=False)]
    count = len(ids) if total is None else total
    meta = {"completion_tokens": count, "weight_version": "2", "output_token_logprobs": pairs, **meta}
    return msgspec.json.encode({"output_ids": ids, "meta_info": meta})


def test_lists_that_grew_while_sglang_wrote_them_out_lose_and_repeat_nothing():
    growth = Growth()
    completion = growth.completion
    growth.take(decode(event([5], [-1.0])))
    growth.take(decode(event([5, 6, 7], [-1.0, -2.0], total=2)))
    assert list(completion.ids) == [5, 6]
    growth.take(decode(event([5, 6, 7], [-1.0, -2.0, -3.0], finish_reason={"type": "length"})))
    assert (list(completion.ids), list(completion.logprobs), completion.exact) == ([5, 6, 7], [-1, -2, -3], True)


@pytest.mark.parametrize(
    "answer",
    [
        event([5, 6], [-1.0]),
        event([5], [None]),
        event([5], [-1.0], output_token_logprobs=[[-1.0, 6, None]]),
        event([5], [-1.0], output_token_logprobs=None),
    ],
    ids=["one missing", "null", "another token's", "none"],
)
def test_logprobs_that_do_not_belong_to_the_ids_make_a_completion_inexact(answer):
    growth = Growth()
    completion = growth.completion
    growth.take(decode(answer))
    assert not completion.exact
    assert completion.ids[0] == 5


def test_a_last_event_that_contradicts_the_earlier_ones_makes_a_completion_inexact():
    growth = Growth()
    completion = growth.completion
    growth.take(decode(event([5, 6], [-1.0, -2.0])))
    growth.take(decode(event([5, 9, 7], [-1.0, -2.0, -3.0], finish_reason={"type": "stop"})))
    assert (list(completion.ids), completion.exact) == ([5, 6, 7], False)


@pytest.mark.parametrize("text", [None, "a long one: " + "x" * LONG, '"output_ids":[1,"output_token_logprobs":[[9]]'])
def test_a_long_answer_is_read_like_a_short_one_whatever_else_it_holds(text):
    ids = list(range(100, 300))
    growth = Growth()
    for end in (150, 151, 200):
        answer = event(ids[:end], [-float(token) for token in ids[:end]], noise=text)
        before = msgspec.json.encode({"text": text}).rstrip(b"}")
        growth.take(decode(before + b"," + answer.removeprefix(b"{")))
    assert list(growth.completion.ids) == ids
    assert growth.completion.logprobs == Float32s(-float(token) for token in ids)
    assert growth.completion.exact


def test_texts_beside_logprobs_may_hold_anything():
    pairs = [[-1.0, token, "]],[["] for token in range(100)]
    growth = Growth()
    for end in (50, 51, 100):
        growth.take(decode(event(list(range(end)), [], output_token_logprobs=pairs[:end])))
    assert list(growth.completion.ids) == list(range(100))
    assert (len(growth.completion.logprobs), growth.completion.exact) == (100, True)


def test_alternatives_stand_beside_their_tokens_in_either_shape():
    tops = [[[-0.1, 5, None], [-2.0, 9, None]], None, [[-0.3, 7, None], [None, 8, None]]]
    shown = [[(-0.1, 5), (-2.0, 9)], [], [(-0.3, 7)]]
    for whole in (True, False):
        growth, ids, logprobs = Growth(), [5, 6, 7], [-0.1, -0.2, -0.3]
        completion = growth.completion
        growth.take(decode(event(ids[:1], logprobs[:1], output_top_logprobs=tops[:1])))
        start = 0 if whole else 1
        growth.take(decode(event(ids[start:], logprobs[start:], total=3, output_top_logprobs=tops[start:])))
        assert completion.top_logprobs == shown


def test_versions_follow_the_engines_spans_and_fall_back_to_its_one_version():
    spans = [VersionSpan("4", 0, 2), VersionSpan(5, 2, 9)]
    assert list(versions_of(spans, "5", 0, 3)) == [4, 4, 5]
    assert list(versions_of(spans, "5", 1, 3)) == [4, 5]
    assert list(versions_of(None, "7", 3, 5)) == [7, 7]
    assert list(versions_of(None, "default", 0, 2)) == [0, 0]


def test_spans_that_sglang_tells_at_the_end_hold_for_the_whole_completion():
    growth = Growth()
    completion = growth.completion
    growth.take(decode(event([5, 6], [-1.0, -1.0], weight_version="4")))
    spans = [{"version": "3", "start": 0, "end": 1}, {"version": "4", "start": 1, "end": 3}]
    last = event([5, 6, 7], [-1.0] * 3, weight_version="4", weight_versions=spans, finish_reason={"type": "stop"})
    growth.take(decode(last))
    assert list(completion.weight_versions) == [3, 4, 4]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("status", "raised", "code"),
    [(400, ApiError, "engine_refused"), (422, ApiError, "engine_refused"), (404, ApiError, "engine_misconfigured"),
     (401, ApiError, "engine_misconfigured"), (429, EngineLost, None), (503, EngineLost, None)],
)  # fmt: skip
async def test_a_status_says_whether_the_request_or_the_engine_is_wrong(status, raised, code, stream):
    scripted = ScriptedEngine()
    scripted.script = lambda _: Line(ids=[], status=status, message="because")
    async with served(scripted.app) as url:
        with pytest.raises(raised, match="because") as caught:
            await completed(url, work(stream=stream))
    assert getattr(caught.value, "code", None) == code
    assert code == "engine_refused" or url in str(caught.value)


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        ({"message": "top_p must be in (0, 1]", "type": "invalid_request_error", "code": 400}, ApiError),
        ({"message": "the scheduler died", "type": "engine_error"}, EngineLost),
        ({"message": "busy", "code": 503}, EngineLost),
        ("no", ApiError),
    ],
)
async def test_an_error_in_a_stream_that_had_not_begun_says_the_same(error, raised):
    async with raw([chunked([b"data: " + msgspec.json.encode({"error": error}) + b"\n\n", b"data: [DONE]\n\n"])]) as it:
        with pytest.raises(raised):
            await completed(it.url, work())


@pytest.mark.parametrize(
    "ending", [[HANG_UP], [b'16\r\ndata: {"error":"oh"}\n\n\r\n'], [b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"]],
    ids=["broken", "error", "no finish"],
)  # fmt: skip
async def test_an_engine_that_is_lost_midway_leaves_what_it_had_sent(ending):
    began = chunked([b"data: " + event([5, 6], [-1.0, -2.0]) + b"\n\n"], ending=b"")
    async with raw([began, *ending]) as server:
        heard = Heard()
        with pytest.raises(EngineLost, match=server.url):
            await hear(engine_at(server.url), work(), heard)
    completion = heard.completion
    assert (list(completion.ids), completion.finish) == ([5, 6], None)


async def test_an_answer_that_is_none_is_the_engines_failure():
    async with raw([plain(b"<html>")]) as server:
        with pytest.raises(EngineLost, match="cannot be read"):
            await completed(server.url, work(stream=False))


async def test_a_prompt_too_long_for_the_engine_gets_openais_code():
    scripted = ScriptedEngine()
    message = "The input (99 tokens) is longer than the model's context length (64 tokens)."
    scripted.script = lambda _: Line(ids=[], status=400, message=message)
    async with served(scripted.app) as url:
        with pytest.raises(ApiError) as caught:
            await completed(url, work())
    assert caught.value.code == "context_length_exceeded"


@pytest.mark.parametrize("stream", [False, True])
async def test_an_aborted_request_keeps_what_was_sampled(stream):
    scripted = ScriptedEngine()
    scripted.script = lambda _: Line(ids=[5, 6, 7], pause_before=2)
    async with served(scripted.app) as url:
        engine = engine_at(url)
        asking = asyncio.create_task(hear(engine, work(stream=stream)))
        await scripted.paused.wait()
        await engine.abort("r-1")
        got = (await asking).completion
    assert (list(got.ids), got.finish, got.message) == ([5, 6], "abort", "aborted")


async def test_aborting_at_an_engine_that_is_gone_is_no_error():
    async with raw() as server:
        url = server.url
    await engine_at(url).abort("r-1")
    assert not await engine_at(url).healthy()


async def test_a_cancelled_completion_closes_its_connection():
    async with raw([chunked([b"data: " + event([5], [-1.0]) + b"\n\n"], ending=b"")]) as server:
        asking = asyncio.create_task(completed(server.url, work()))
        await until(lambda: bool(server.requests))
        await asyncio.sleep(0.01)
        asking.cancel()
        await asyncio.wait_for(server.closed.wait(), 5)
        with pytest.raises(asyncio.CancelledError):
            await asking


def test_an_empty_prompt_is_refused_before_it_is_sent():
    with pytest.raises(ApiError, match="empty"):
        engine_at("http://127.0.0.1:1").check(work(ids=Int32s()))


@given(st.lists(st.integers(0, 400), max_size=10))
def test_events_are_the_same_wherever_their_bytes_are_cut(places):
    text = b': hi\n\ndata: {"a":1}\r\n\r\nevent: x\ndata:{"b":2}\n\ndata:\n\ndata: [DONE]\n\ndata: {"late":1}\n\n'
    edges = [0, *sorted(min(place, len(text)) for place in places), len(text)]
    events = Events()
    found = [data for start, end in pairwise(edges) for data in events.push(text[start:end])]
    assert (found, events.ended) == ([b'{"a":1}', b'{"b":2}'], True)
