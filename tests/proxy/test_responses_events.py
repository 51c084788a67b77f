"""The answer of the Responses dialect alone: in whatever pieces it is sampled, the stream tells the plain reply."""

import json
from itertools import pairwise
from typing import Any, get_args

import msgspec
import openai.types.responses as official
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nexrl_proxy.dialects import Choice, Opening, TokenText, Usage
from nexrl_proxy.dialects.responses import ResponsesDialect, decode
from nexrl_proxy.errors import ApiError, unavailable
from nexrl_proxy.parsers import Content, Reasoning
from nexrl_proxy.reading import Called
from nexrl_proxy.text import shown_as

TOOLS = [
    {"type": "function", "name": "look", "parameters": {"type": "object"}, "strict": False},
    {"type": "custom", "name": "patch"},
    {"type": "namespace", "name": "far", "description": "d", "tools": [{"type": "function", "name": "off"}]},
]
USAGE = Usage(prompt_tokens=5, completion_tokens=7, cached_tokens=2, reasoning_tokens=3)
EVENTS = {
    get_args(kind.model_fields["type"].annotation)[0]: kind
    for kind in get_args(get_args(official.ResponseStreamEvent)[0])
}
SENT_BUT_UNTYPED = {
    "Response.store",
    "ResponseFunctionCallArgumentsDoneEvent.name",
    "ResponseCustomToolCall.status",
    "Logprob.bytes",
    "LogprobTopLogprob.bytes",
}
"""The official server sends them; this version of the official client has no types for them."""


def answer(**body: Any):
    ask = decode(json.dumps({"model": "m", "input": "hello", "tools": TOOLS, **body}).encode())
    opening = Opening(response="resp_a1", model="m", created=1_700_000_000, prompt_tokens=5)
    return ResponsesDialect().answer(ask, opening)


def parsed(stream: bytes) -> list[dict[str, Any]]:
    """Return a stream's events; each names its type twice and counts on."""
    events: list[dict[str, Any]] = []
    for block in stream.decode().split("\n\n")[:-1]:
        name, data = block.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def official_event(event: dict[str, Any]) -> Any:
    """Return an event as the official client reads it; it must have no field that the client does not know."""
    read = EVENTS[event["type"]].model_validate(event)
    assert set(unknown(read)) <= SENT_BUT_UNTYPED
    return read


def unknown(read: Any) -> list[str]:
    if isinstance(read, list):
        return [name for item in read for name in unknown(item)]
    if not hasattr(read, "model_extra"):
        return []
    inner = [name for field in type(read).model_fields for name in unknown(getattr(read, field))]
    return [f"{type(read).__name__}.{name}" for name in read.model_extra or ()] + inner


def message_of(deltas: list[Any]) -> dict[str, Any]:
    """Return the assistant message as the reader puts it together."""
    message: dict[str, Any] = {"role": "assistant"}
    message["content"] = "".join(delta.text for delta in deltas if isinstance(delta, Content)) or None
    if thought := "".join(delta.text for delta in deltas if isinstance(delta, Reasoning)):
        message["reasoning_content"] = thought
    calls = [delta for delta in deltas if isinstance(delta, Called)]
    if calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in calls
        ]
    return message


def streamed(deltas: list[list[Any]], choice: Choice, tokens: list[list[TokenText]] | None = None, **body: Any):
    told = answer(**body)
    opening = told.first()
    pieces = [told.delta(0, batch, tokens[place] if tokens else None) for place, batch in enumerate(deltas)]
    return parsed(b"".join([opening, *pieces, told.last(0, choice), told.end(USAGE)]))


def replied(told, choice: Choice) -> dict[str, Any]:
    """Return the plain reply as it arrives."""
    return msgspec.json.decode(msgspec.json.encode(told.whole([choice], USAGE)))


text = st.text(min_size=1, max_size=4)
arguments = st.builds(
    json.dumps, st.dictionaries(text, st.integers(), max_size=2) | st.builds(lambda s: {"input": s}, text)
)


@st.composite
def completions(draw) -> list[Any]:
    """Draw deltas in the order models write: reasoning, text, calls; text may follow calls, reasoning anything."""
    deltas: list[Any] = [Reasoning(piece) for piece in draw(st.lists(text, max_size=3))]
    deltas += [Content(piece) for piece in draw(st.lists(text, max_size=3))]
    names = st.sampled_from(["look", "patch", "far__off", "unknown"])
    for place, (name, spelled) in enumerate(draw(st.lists(st.tuples(names, arguments), max_size=3))):
        deltas += [Called(place, f"call_{place}", name, spelled), *draw(st.lists(st.builds(Content, text), max_size=1))]
    return deltas


def cut(deltas: list[Any], places: list[int]) -> list[list[Any]]:
    edges = [0, *sorted(place % (len(deltas) + 1) for place in places), len(deltas)]
    return [deltas[start:end] for start, end in pairwise(edges)]


@settings(deadline=None)
@given(completions(), st.lists(st.integers(0, 20), max_size=5), st.sampled_from(["stop", "length", "abort"]))
def test_a_streamed_response_is_the_plain_one(deltas, places, finish):
    choice = Choice(message=message_of(deltas), finish_reason=finish)
    events = streamed(cut(deltas, places), choice)
    plain = replied(answer(), choice)
    assert events[-1]["type"] == ("response.completed" if finish == "stop" else "response.incomplete")
    assert events[-1]["response"] == plain
    assert [event["item"] for event in events if event["type"] == "response.output_item.done"] == plain["output"]
    assert told_by_deltas(events) == plain["output"]
    for event in events:
        official_event(event)


def told_by_deltas(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the items as a client builds them that looks at additions and deltas alone."""
    items: list[dict[str, Any]] = []
    open_items: set[int] = set()
    for event in events:
        match event["type"].removeprefix("response."):
            case "output_item.added":
                assert event["output_index"] == len(items)
                assert not open_items
                open_items.add(event["output_index"])
                items.append(event["item"])
            case "content_part.added":
                items[event["output_index"]]["content"].append(event["part"])
            case "output_text.delta" | "reasoning_text.delta":
                items[event["output_index"]]["content"][event["content_index"]]["text"] += event["delta"]
            case "function_call_arguments.delta":
                items[event["output_index"]]["arguments"] += event["delta"]
            case "custom_tool_call_input.delta":
                items[event["output_index"]]["input"] += event["delta"]
            case "output_item.done":
                open_items.remove(event["output_index"])
                items[event["output_index"]]["status"] = event["item"]["status"]
        if "item_id" in event:
            assert items[event["output_index"]]["id"] == event["item_id"]
    assert not open_items
    return items


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


def test_events_come_in_the_official_order():
    deltas = [Reasoning("hm"), Content("let me"), Content(" look"), Called(0, "call_0", "look", "{}")]
    choice = Choice(message=message_of(deltas), finish_reason="stop")
    assert kinds(streamed([[delta] for delta in deltas], choice)) == [
        "created", "in_progress",
        "output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.done", "content_part.done",
        "output_item.done",
        "output_item.added", "content_part.added", "output_text.delta", "output_text.delta", "output_text.done",
        "content_part.done", "output_item.done",
        "output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done",
        "completed",
    ]  # fmt: skip


def test_a_stream_may_be_opened_when_its_first_piece_is_there():
    told = answer()
    piece = told.delta(0, [Content("a")], None)
    assert kinds(parsed(told.first() + piece))[:2] == ["created", "in_progress"]


def test_what_arrives_at_once_is_one_event():
    deltas = [Reasoning("h"), Reasoning("m"), Content("a"), Content("b")]
    events = streamed([deltas], Choice(message=message_of(deltas), finish_reason="stop"))
    assert [event["delta"] for event in events if "delta" in event] == ["hm", "ab"]


def test_an_empty_completion_is_an_empty_text():
    choice = Choice(message=message_of([]), finish_reason="stop")
    [item] = streamed([[]], choice)[-1]["response"]["output"]
    assert (item["type"], item["status"], item["content"][0]["text"]) == ("message", "completed", "")


@pytest.mark.parametrize(
    ("deltas", "statuses"),
    [
        ([Reasoning("hm")], ["incomplete"]),
        ([Reasoning("hm"), Content("so")], ["completed", "incomplete"]),
        ([Content("so"), Called(0, "c", "look", "{}")], ["completed", "completed"]),
        ([], ["incomplete"]),
    ],
    ids=["reasoning", "text", "calls", "nothing"],
)
def test_what_a_length_limit_cut_short_is_incomplete(deltas, statuses):
    response = replied(answer(), Choice(message=message_of(deltas), finish_reason="length"))
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert [item["status"] for item in response["output"]] == statuses


def test_reasoning_after_text_is_in_the_final_response_alone():
    deltas = [Content("so"), Reasoning("hm")]
    choice = Choice(message=message_of(deltas), finish_reason="stop")
    events = streamed([deltas], choice)
    assert [event["delta"] for event in events if "delta" in event] == ["so"]
    assert events[-1]["response"] == replied(answer(), choice)


def test_calls_are_called_as_the_request_calls_the_tools():
    deltas = [
        Called(0, "call_0", "far__off", '{"a": 1}'),
        Called(1, "call_1", "patch", '{"input": "*** Begin"}'),
        Called(2, "call_2", "patch", '{"patch": 1}'),
    ]
    output = replied(answer(), Choice(message=message_of(deltas), finish_reason="stop"))["output"]
    assert [{name: value for name, value in item.items() if name not in ("id", "status")} for item in output] == [
        {"type": "function_call", "call_id": "call_0", "name": "off", "arguments": '{"a": 1}', "namespace": "far"},
        {"type": "custom_tool_call", "call_id": "call_1", "name": "patch", "input": "*** Begin"},
        {"type": "custom_tool_call", "call_id": "call_2_json", "name": "patch", "input": '{"patch": 1}'},
    ]


def test_a_response_repeats_its_request_and_says_what_was_used():
    body = {
        "instructions": "be brief", "temperature": 0.5, "top_p": 0.9, "max_output_tokens": 7, "metadata": {"a": "b"},
        "tool_choice": "none", "previous_response_id": "resp_0", "store": False, "parallel_tool_calls": False,
        "reasoning": {"effort": "low"}, "text": {"format": {"type": "json_object"}, "verbosity": "low"}, "user": "u",
        "truncation": "auto", "top_logprobs": 1,
    }  # fmt: skip
    response = replied(answer(**body), Choice(message=message_of([Content("x")]), finish_reason="stop"))
    changed = {"reasoning": {"effort": "low", "summary": None}, "truncation": "disabled"}
    expected = {**body, **changed, "tools": TOOLS}
    assert {name: response[name] for name in expected} == expected
    assert response["usage"] == {
        "input_tokens": 5,
        "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 0},
        "output_tokens": 7,
        "output_tokens_details": {"reasoning_tokens": 3},
        "total_tokens": 12,
    }
    assert (response["id"], response["object"], response["created_at"]) == ("resp_a1", "response", 1_700_000_000)
    official.Response.model_validate(response)


def test_logprobs_of_every_token_stand_with_the_text():
    other = TokenText(shown_as("z", b"z"), -1.0)
    tokens = [TokenText(shown_as(name, name.encode()), -0.5, [other]) for name in ("<t>", "a", "b", "<e>")]
    choice = Choice(message=message_of([Content("ab")]), finish_reason="stop", tokens=tokens)
    batches = [[tokens[0]], [tokens[1]], [tokens[2], tokens[3]]]
    events = streamed([[], [Content("a")], [Content("b")]], choice, batches, top_logprobs=1)
    told = [entry["token"] for event in events if "delta" in event for entry in event["logprobs"]]
    [part] = events[-1]["response"]["output"][0]["content"]
    assert told == ["<t>", "a", "b", "<e>"]
    assert part["logprobs"][1] == {
        "token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": [{"token": "z", "logprob": -1.0, "bytes": [122]}]
    }  # fmt: skip
    assert [entry["token"] for entry in part["logprobs"]] == told
    for event in events:
        official_event(event)


@pytest.mark.parametrize(
    ("error", "code"),
    [(unavailable("the engine went away"), "server_error"), (ApiError("the engine refuses it"), "invalid_prompt")],
    ids=["the server's", "the client's"],
)
def test_a_stream_that_breaks_off_says_so_in_both_ways_that_clients_know(error, code):
    told = answer()
    *_, broken, failed = parsed(told.first() + told.delta(0, [Content("a")], None) + told.failed(error))
    assert (broken["type"], broken["message"], broken["error"]["message"]) == ("error", str(error), str(error))
    assert (failed["type"], failed["response"]["status"]) == ("response.failed", "failed")
    assert failed["response"]["error"] == {"code": code, "message": str(error)}
    official_event(failed)


def test_an_error_before_anything_is_sampled_names_the_input_where_chat_names_the_messages():
    body = ResponsesDialect().error(ApiError("too long", param="messages", code="context_length_exceeded"))
    told = {"message": "too long", "type": "invalid_request_error", "param": "input", "code": "context_length_exceeded"}
    assert msgspec.to_builtins(body) == {"error": told}
