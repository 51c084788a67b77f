"""Text to meaning: what is read never depends on the pieces the text arrived in."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import CHATML, THINKING, build_tokenizer

from nexrl_proxy.parsers import Content, Malformed, Reasoning, ToolCall
from nexrl_proxy.parsers.choose import Parsers
from nexrl_proxy.parsers.hermes import HermesParser, parse_call
from nexrl_proxy.parsers.plain import PlainParser
from nexrl_proxy.parsers.think import ThinkParser
from nexrl_proxy.text import StopCut, Vocabulary, WindowDecoder

PIECES = [
    "<tool_call>",
    "</tool_call>",
    '{"name": "f", "arguments": {"a": 1}}',
    "<think>",
    "</think>",
    " ",
    "\n",
    "x",
    "<",
]
VOCABULARY = Vocabulary(build_tokenizer(), hidden=[0])
texts = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)
cuts = st.lists(st.integers(0, 60), max_size=6)


def read(parser, text, at=()):
    edges = [0, *sorted(place for place in at if place < len(text)), len(text)]
    events = [event for start, end in itertools.pairwise(edges) for event in parser.push(text[start:end])]
    return joined([*events, *parser.finish()])


def joined(events):
    """Merge neighbouring events of one kind; tool calls stay apart."""
    merged: list = []
    for event in events:
        if merged and type(event) is type(merged[-1]) and isinstance(event, Content | Reasoning):
            merged[-1] = type(event)(merged[-1].text + event.text)
        else:
            merged.append(event)
    return merged


@pytest.mark.parametrize(
    "make",
    [HermesParser, PlainParser, lambda: ThinkParser(HermesParser(), inside=False),
     lambda: ThinkParser(HermesParser(), inside=True)],
)  # fmt: skip
@given(text=texts, at=cuts)
def test_pieces_make_no_difference(make, text, at):
    assert read(make(), text, at) == read(make(), text)


@given(text=texts, at=cuts, stops=st.lists(st.sampled_from(["x", "<th", "\n ", "</tool_call>x"]), max_size=2))
def test_stop_strings_cut_at_the_same_place_however_the_text_arrives(text, at, stops):
    def cut(at):
        stop = StopCut(stops)
        edges = [0, *sorted(place for place in at if place < len(text)), len(text)]
        return "".join(stop.push(text[a:b]) for a, b in itertools.pairwise(edges)) + stop.finish()

    first = min((place for stop in stops if (place := text.find(stop)) >= 0), default=len(text))
    assert cut(at) == cut([]) == text[:first]


def test_content_is_what_stands_before_the_first_call():
    call = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
    assert read(HermesParser(), f"\n look \n{call}\n{call} after") == [
        Content("look"), ToolCall("f", '{"a": 1}'), ToolCall("f", '{"a": 1}')
    ]  # fmt: skip


@pytest.mark.parametrize(
    "body",
    ["", "{", "[]", '{"name": "f"}', '{"name": "", "arguments": {}}', '{"name": "f", "arguments": [1]}',
     '{"name": 3, "arguments": {}}', '{"name": "f", "arguments": "text"}', '{"name": "f", "arguments": {}} more'],
)  # fmt: skip
def test_a_call_that_is_no_call_is_text(body):
    assert parse_call(body) is None
    text = f"a <tool_call>{body}</tool_call> b"
    events = read(HermesParser(), text)
    assert "".join(event.text for event in events) == text
    assert any(isinstance(event, Malformed) for event in events)


def test_arguments_keep_the_models_spelling():
    assert parse_call('{"name":"f","arguments":{"b":1.0,  "a":"é"}}') == ToolCall("f", '{"b":1.0,  "a":"é"}')
    assert parse_call('{"name": "f", "arguments": "{\\"a\\": 1}"}') == ToolCall("f", '{"a": 1}')


def test_reasoning_is_split_off_and_only_at_the_start():
    assert read(ThinkParser(PlainParser(), inside=False), "<think>\nhm\n</think>\n\nyes <think>") == [
        Reasoning("hm"), Content("yes <think>")
    ]  # fmt: skip
    assert read(ThinkParser(PlainParser(), inside=True), "hm</think>yes") == [Reasoning("hm"), Content("yes")]
    assert read(ThinkParser(PlainParser(), inside=False), "no thought") == [Content("no thought")]


def test_auto_reads_the_chat_template():
    assert Parsers(tools="auto", reasoning="none", template=CHATML).tools == "hermes"
    assert Parsers(tools="auto", reasoning="none", template=THINKING).tools == "none"


@given(st.text(max_size=30))
def test_both_decoders_give_back_the_text_and_never_half_a_character(text):
    vocabulary = VOCABULARY
    ids = vocabulary.tokenizer.encode(text, add_special_tokens=False).ids
    for decoder in (vocabulary.decoder(), WindowDecoder(vocabulary)):
        pieces = [decoder.push([token]) for token in ids]
        assert "".join(pieces) + decoder.finish() == text
        assert "\ufffd" in text or not any("\ufffd" in piece for piece in pieces)
