"""A completion that an engine cuts short goes on behind its own tokens: one reply, every token exact."""

import json
from typing import Any

import pytest
from scripted_engine import Line

HELLO = [{"role": "user", "content": "hello"}]
SAID = "hello world it is sunny"


def cut(world, *pieces: int, **last: Any) -> list[int]:
    """Let the engine break off after so many tokens of a reply each time, and say the rest at last."""
    ids, given = world.ids(SAID), list(pieces)

    def script(asked: dict[str, Any]) -> Line:
        done = len(asked["input_ids"]) - len(world.engine.requests[0]["input_ids"])
        logprobs = [-0.25 * (index + 1) for index in range(len(ids))][done:]
        version = str(3 + len(pieces) - len(given))
        broken = {"break_before": given.pop(0)} if given else last
        return Line(ids=ids[done:], logprobs=logprobs, version=version, **broken)

    world.engine.script = script
    return ids


async def streamed(world, **options: Any) -> tuple[str, list[dict[str, Any]]]:
    """Return a stream's text and its events."""
    body = {"model": "m", "messages": HELLO, "stream": True, **options}
    headers = {"authorization": f"Bearer {world.key()}"}
    async with world.http.post(f"{world.url}/v1/chat/completions", json=body, headers=headers) as reply:
        lines = [line.removeprefix("data: ") for line in (await reply.text()).split("\n\n") if line]
    events = [json.loads(line) for line in lines if line != "[DONE]"]
    return "".join(
        choice["delta"].get("content") or "" for event in events for choice in event.get("choices", ())
    ), events


async def test_a_stream_goes_on_behind_its_tokens_and_is_recorded_as_one_exact_call(world):
    ids = cut(world, 2, 1)
    text, events = await streamed(world, max_tokens=40, logprobs=True)
    [call] = await world.recorded()
    assert (text, events[-1]["choices"][0]["finish_reason"]) == (SAID, "stop")
    assert list(call.completion) == ids
    assert list(call.logprobs) == [-0.25 * (index + 1) for index in range(len(ids))]
    assert list(call.weight_versions) == [3, 3, 4, *[5] * (len(ids) - 3)]
    assert (call.exact, call.finish_reason) == (True, "stop")
    assert sum(len(choice["logprobs"]["content"]) for event in events for choice in event["choices"]
               if choice.get("logprobs")) == len(ids)  # fmt: skip
    first, second, third = world.engine.requests
    assert second["input_ids"] == first["input_ids"] + ids[:2]
    assert third["input_ids"] == first["input_ids"] + ids[:3]
    limits = [asked["sampling_params"]["max_new_tokens"] for asked in world.engine.requests]
    assert limits == [40, 38, 37]
    assert len({asked["rid"] for asked in world.engine.requests}) == 3
    assert (await world.stats())["resumed"] == 2


async def test_what_is_left_of_a_least_length_is_asked_for_behind_the_tokens(world):
    ids = cut(world, 2, 2)
    await streamed(world, min_tokens=3, ignore_eos=True)
    [call] = await world.recorded()
    assert (list(call.completion), call.exact) == (ids, True)
    assert [asked["sampling_params"]["min_new_tokens"] for asked in world.engine.requests] == [3, 1, 0]
    assert call.sampling["min_new_tokens"] == 3


async def test_the_next_turn_continues_a_call_that_was_cut(world):
    ids = cut(world, 3)
    text, _ = await streamed(world)
    world.says("bye")
    await world.chat([*HELLO, {"role": "assistant", "content": text}, {"role": "user", "content": "and now?"}])
    one, two = await world.recorded()
    assert two.parent == one.id
    assert (
        world.engine.requests[-1]["input_ids"][: len(world.engine.requests[1]["input_ids"])]
        == (world.engine.requests[1]["input_ids"])
    )
    assert list(one.completion) == ids


async def test_a_plain_reply_that_the_engine_aborts_goes_on(world):
    ids = world.ids(SAID)

    def script(asked: dict[str, Any]) -> Line:
        if len(world.engine.requests) == 1:
            return Line(ids=ids[:3], finish={"type": "abort", "message": "weights change"})
        return Line(ids=ids[3:])

    world.engine.script = script
    reply = await world.chat(HELLO)
    [call] = await world.recorded()
    assert reply["choices"][0]["message"]["content"] == SAID
    assert reply["choices"][0]["finish_reason"] == "stop"
    assert reply["usage"]["completion_tokens"] == len(ids)
    assert list(call.completion) == ids
    assert world.engine.requests[1]["input_ids"] == world.engine.requests[0]["input_ids"] + ids[:3]


@pytest.mark.parametrize(
    "options",
    [
        {"stop": ["rain"]},
        {"seed": 4},
        {"frequency_penalty": 0.5},
        {"response_format": {"type": "json_object"}},
    ],
)
async def test_where_more_counts_than_the_tokens_before_the_reply_ends_where_it_was_cut(world, options):
    ids = cut(world, 2)
    _, events = await streamed(world, **options)
    [call] = await world.recorded()
    assert "2 tokens were sampled" in events[-1]["error"]["message"]
    assert (list(call.completion), call.finish_reason) == (ids[:2], "abort")
    assert len(world.engine.requests) == 1


@pytest.mark.parametrize(("options", "finish"), [({}, "stop"), ({"max_tokens": 4}, "length")])
async def test_only_the_last_word_was_missing(world, options, finish):
    ids = world.ids(SAID)[: options.get("max_tokens")]
    world.engine.script = lambda _: Line(ids=[*ids, 0], break_before=len(ids))
    _, events = await streamed(world, **options)
    [call] = await world.recorded()
    assert events[-1]["choices"][0]["finish_reason"] == call.finish_reason == finish
    assert list(call.completion) == ids
    assert len(world.engine.requests) == 1


async def test_a_turn_that_ends_with_the_last_token_that_was_allowed_has_ended(world):
    ids = world.ids("hello")
    world.engine.script = lambda _: Line(ids=ids, finish={"type": "length", "length": len(ids)})
    first = await world.chat(HELLO, max_tokens=len(ids))
    assert first["choices"][0]["finish_reason"] == "stop"
    await world.chat([*HELLO, first["choices"][0]["message"], *HELLO])
    one, two = await world.recorded()
    assert (one.finish_reason, two.parent) == ("stop", one.id)
    # The turn's end stands once: it was sampled.
    assert world.renderer.tokenizer.decode(list(two.prompt_delta), skip_special_tokens=False).startswith(
        "\n<|im_start|>user"
    )


async def test_a_refusal_of_the_rest_loses_no_token(world):
    ids = cut(world, 2, status=400, message="too long for me")
    _, events = await streamed(world)
    [call] = await world.recorded()
    assert "too long for me (2 tokens were sampled)" in events[-1]["error"]["message"]
    assert (list(call.completion), call.finish_reason) == (ids[:2], "abort")


async def test_an_engine_that_always_breaks_off_is_not_asked_for_ever(world, monkeypatch):
    monkeypatch.setattr("nexrl_proxy.sampling.MOST_CUTS", 3)
    ids = world.ids(SAID)
    world.engine.script = lambda _: Line(ids=ids, break_before=1)
    _, events = await streamed(world)
    [call] = await world.recorded()
    assert "3 tokens were sampled" in events[-1]["error"]["message"]
    assert list(call.completion) == ids[:1] * 3
