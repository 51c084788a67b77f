"""Tool calls and reasoning in every format: exact in any pieces, nothing lost, linear in the text.

One file for all formats, since each new one has to meet the same properties, and stands in the same tables.
"""

import json
import re
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from spelled_calls import SPELLINGS, TOOLS, parser_of, read, shown

from nexrl.errors import ConfigError
from nexrl_proxy.parsers import Content, Malformed, Reasoning, ToolCall
from nexrl_proxy.parsers.choose import REASONING_PARSERS, TOOL_FORMATS, Parsers
from nexrl_proxy.parsers.harmony import HarmonyParser
from nexrl_proxy.parsers.scan import Until, partial

WITH_CALLS = sorted(SPELLINGS.keys() - {"none"})
FIRST_ARGUMENT = {
    "glm": "<arg_key>",
    "qwen3-coder": "<parameter=",
    "minimax": "<parameter ",
    "deepseek-v3.2": "<｜DSML｜parameter ",
    "pythonic": "where=",
}
NO_JSON = FIRST_ARGUMENT.keys()
"""Formats that write each argument in a way of their own, and how the first one begins."""
ORDINARY = [
    "word",
    " ",
    "\n",
    "\n\n",
    "é🙂",
    "\u00a0",
    "<",
    "x<y",
    "<think>",
    "</think>",
    "[THINK]",
    "[/THINK]",
    ".",
    "0",
]
HOSTILE = [
    '"',
    '\\"',
    "</tool_call>",
    "</arg_value",
    "\\",
    "\n",
    "{",
    "}]",
    "[TOOL_CALLS]",
    "<｜tool▁call▁end｜>",
    "<|end|>",
    "é",
]
MAY_BE_MISSING = {"harmony": "<|call|>", "pythonic": "<|python_end|>"}
"""What stands behind a call that is whole without."""
cuts = st.lists(st.integers(0, 120), max_size=12)
values = st.lists(st.sampled_from(HOSTILE), max_size=5).map("".join)
names = st.sampled_from(["look", "get_weather", "a.b-c"])


@pytest.mark.parametrize("tool_format", sorted(SPELLINGS))
@settings(max_examples=80)
@given(data=st.data(), at=cuts, reasoning=st.sampled_from(["none", "think", "mistral"]))
def test_pieces_make_no_difference(tool_format, data, at, reasoning):
    spelling = SPELLINGS[tool_format]
    pieces = [*ORDINARY, *spelling.markup, *spelling.markup, *spelling.broken, spelling.call("look", {"where": "here"})]
    text = "".join(data.draw(st.lists(st.sampled_from(pieces), max_size=14)))
    end = data.draw(st.sampled_from(["", "<think>\n", "[THINK]", "<|start|>assistant<|channel|>final<|message|>"]))
    at_once = read(parser_of(tool_format, reasoning=reasoning, prompt_end=end), text)
    assert read(parser_of(tool_format, reasoning=reasoning, prompt_end=end), text, at) == at_once
    assert read(parser_of(tool_format, reasoning=reasoning, prompt_end=end), text, range(len(text))) == at_once


@pytest.mark.parametrize("tool_format", sorted(SPELLINGS))
@settings(max_examples=25)
@given(text=st.text(max_size=40), at=cuts)
def test_text_without_markup_is_content_to_the_letter(tool_format, text, at):
    shown_text = shown(read(parser_of(tool_format), "x" + text, at))
    assert shown_text.rstrip() == ("x" + text).rstrip()


@pytest.mark.parametrize("tool_format", WITH_CALLS)
@settings(max_examples=40)
@given(data=st.data(), at=cuts)
def test_every_call_is_read_and_everything_else_is_shown(tool_format, data, at):
    spelling = SPELLINGS[tool_format]
    words = [*spelling.broken, "one", "two three"]
    spoken = data.draw(st.lists(st.sampled_from([*words, *["call"] * 4]), max_size=8))
    text, calls, rest = "", [], ""
    for place, part in enumerate(spoken):
        arguments = {"depth": place, "where": "in </tool_call> a string"}
        text += (spelling.call("look", arguments) if part == "call" else message(tool_format, part)) + "\n"
        calls += [("look", arguments)] if part == "call" else []
        rest += "" if part == "call" else part
    events = read(parser_of(tool_format), text, at)
    assert [(e.name, json.loads(e.arguments)) for e in events if isinstance(e, ToolCall)] == calls
    assert "".join(shown(events).split()) == "".join(rest.split())
    assert sum(isinstance(e, Malformed) for e in events) == sum(part in spelling.broken for part in spoken)


def message(tool_format: str, text: str) -> str:
    """Return content as the format writes it between calls."""
    is_bare = tool_format != "harmony" or text.startswith("<|")
    return text if is_bare else f"<|start|>assistant<|channel|>final<|message|>{text}<|end|>"


@pytest.mark.parametrize("tool_format", sorted(set(WITH_CALLS) - NO_JSON))
@settings(max_examples=40)
@given(name=names, key=values, value=values, at=cuts)
@example(name="look", key="", value="</tool_call>", at=[])
def test_json_arguments_are_the_models_own_spelling_whatever_is_in_them(tool_format, name, key, value, at):
    text = SPELLINGS[tool_format].call(name, {key: value, "n": 1.50, "deep": [{}, [value]]})
    [call] = read(parser_of(tool_format), text, at)
    spelled = json.dumps({key: value, "n": 1.50, "deep": [{}, [value]]}, ensure_ascii=False)
    assert call == ToolCall(name, spelled)


@pytest.mark.parametrize("tool_format", sorted(NO_JSON))
@settings(max_examples=40)
@given(value=st.text(max_size=20), depth=st.integers(), at=cuts)
@example(value="</tool_call>", depth=0, at=[])
@example(value="\n 12 \n", depth=0, at=[])
def test_arguments_in_tags_have_the_types_of_the_schema(tool_format, value, depth, at):
    value = re.sub("</(arg_value|(｜DSML｜)?parameter)>", "", value)
    [call] = read(parser_of(tool_format), SPELLINGS[tool_format].call("look", {"where": value, "depth": depth}), at)
    assert json.loads(call.arguments) == {"where": value, "depth": depth}


@pytest.mark.parametrize("tool_format", WITH_CALLS)
@settings(max_examples=40)
@given(data=st.data())
def test_a_call_that_is_cut_short_is_text_to_the_letter(tool_format, data):
    whole = SPELLINGS[tool_format].call("look", {"where": 'over \\ "there"', "depth": 3})
    end = len(whole) - len(MAY_BE_MISSING.get(tool_format, "")) - 1
    cut = whole[: data.draw(st.integers(1, end))]
    events = read(parser_of(tool_format), cut)
    assert not any(isinstance(event, ToolCall) for event in events)
    assert "".join(shown(events).split()) == "".join(cut.split())


@pytest.mark.parametrize("name", [None, "look"])
@pytest.mark.parametrize("tool_format", WITH_CALLS)
@settings(max_examples=40)
@given(at=cuts)
def test_a_forced_beginning_and_what_is_sampled_behind_it_give_the_whole_call(tool_format, name, at):
    parsers = Parsers(tools=tool_format, reasoning=SPELLINGS[tool_format].reasoning, template="")
    begun = parsers.forced(name)
    rest = whole_of(tool_format).partition("look")[2] if name is None else behind_arguments(tool_format)
    text = begun + ("look" if name is None else "") + rest
    assert read(parsers.parser(with_tools=True, prompt_end="", tools=TOOLS), text, at) == [
        ToolCall("look", '{"where": "here"}')
    ]


def whole_of(tool_format: str) -> str:
    return SPELLINGS[tool_format].call("look", {"where": "here"})


def behind_arguments(tool_format: str) -> str:
    whole = whole_of(tool_format)
    first = FIRST_ARGUMENT.get(tool_format, '{"where"')
    return whole[whole.index(first) :]


def test_forcing_closes_reasoning_that_the_prompt_opened_and_is_refused_where_there_are_no_calls():
    parsers = Parsers(tools="hermes", reasoning="think", template="")
    begun = parsers.forced("look", prompt_end="<|im_start|>assistant\n<think>\n")
    assert begun == '</think>\n\n<tool_call>\n{"name": "look", "arguments": '
    parser = parsers.parser(with_tools=True, prompt_end="<|im_start|>assistant\n<think>\n")
    assert read(parser, begun + "{}}\n</tool_call>") == [ToolCall("look", "{}")]
    assert Parsers(tools="none", reasoning="none", template="").forced(None) is None


def test_llama_reads_bare_objects_and_several_of_them():
    one, two = '{"name": "f", "parameters": {"a": 1}}', '{"type": "function", "name": "g", "parameters": {}}'
    assert read(parser_of("llama3"), f"\n{one}; {two}") == [ToolCall("f", '{"a": 1}'), ToolCall("g", "{}")]
    assert read(parser_of("llama3"), f"I see. {one}") == [Content(f"I see. {one}")]


@pytest.mark.parametrize("text", ['{"answer": 3}', "{}", '{"name', "{ 1", '{"named": 1}', "<|python_tag|>print(1)"])
def test_llama_shows_json_that_is_no_call(text):
    events = read(parser_of("llama3"), text)
    assert shown(events) == text
    assert any(isinstance(event, Malformed) for event in events) == text.startswith("<|")


def test_an_answer_in_json_is_not_held_back():
    assert parser_of("llama3").push('{"answer": [1, 2') == [Content("{"), Content('"answer": [1, 2')]


def test_mistral_reads_arrays_of_several_calls():
    text = '[TOOL_CALLS][{"name": "f", "arguments": {"a":1}}, {"arguments": {}, "name": "g"}]'
    assert read(parser_of("mistral"), text) == [ToolCall("f", '{"a":1}'), ToolCall("g", "{}")]
    half = '[TOOL_CALLS][{"name": "f", "arguments": {}}, {"name": "g"}]'
    assert read(parser_of("mistral"), half) == [Malformed(half)]
    assert read(parser_of("mistral"), "[TOOL_CALLS] is how it begins") == [
        Malformed("[TOOL_CALLS] is"), Content(" how it begins")
    ]  # fmt: skip


def test_a_block_of_invocations_holds_several_calls_and_values_may_hold_its_tags():
    parser = parser_of("minimax")
    values = ("</invoke></minimax:tool_call>", " there\n")
    one, two = (f'<invoke name="look">\n<parameter name="where">{value}</parameter>\n</invoke>' for value in values)
    assert read(parser, f"I look.\n<minimax:tool_call>\n{one}\n{two}\n</minimax:tool_call>") == [
        Content("I look."),
        ToolCall("look", '{"where": "</invoke></minimax:tool_call>"}'),
        ToolCall("look", r'{"where": " there\n"}'),
    ]


def test_dsml_says_itself_what_is_a_string():
    text = SPELLINGS["deepseek-v3.2"].call("f", {"a": "1", "b": [1, 2]})
    assert read(parser_of("deepseek-v3.2"), text) == [ToolCall("f", '{"a": "1", "b": [1, 2]}')]
    no_json = text.replace("[1, 2]", "one")
    assert read(parser_of("deepseek-v3.2"), no_json) == [Malformed(no_json)]


def test_kimis_ids_are_of_the_tool_and_a_number():
    wrapped = "<|tool_calls_section_begin|>{}<|tool_calls_section_end|>"
    calls = "".join(f"<|tool_call_begin|> {name} <|tool_call_argument_begin|> {{}} <|tool_call_end|>"
                    for name in ("functions.a.b:0", "functions.look:12", "look"))  # fmt: skip
    assert [event.name for event in read(parser_of("kimi"), wrapped.format(calls))] == ["a.b", "look", "look"]


@pytest.mark.parametrize(
    ("template", "chosen"),
    [
        ("{{ '<|tool_call_begin|>' + id + '<|tool_call_argument_begin|>' }}", "kimi"),
        ("{{ '<minimax:tool_call>' }}<invoke name=", "minimax"),
        ("{{ '<｜DSML｜function_calls>' }}", "deepseek-v3.2"),
    ],
)
def test_a_template_tells_the_format_it_writes(template, chosen):
    assert Parsers(template=template).tools == chosen


@pytest.mark.parametrize("length", [250, 254, 256, 257, 300])
def test_mistrals_names_have_a_limit_that_pieces_do_not_move(length):
    text = "[TOOL_CALLS]" + "n" * length + "[ARGS]{}"
    events = read(parser_of("mistral-v11"), text)
    assert read(parser_of("mistral-v11"), text, range(len(text))) == events
    assert [type(event) for event in events] == ([ToolCall] if length <= 256 else [Malformed, Content])


def test_deepseeks_wrappers_are_format_only_around_calls():
    begin, end = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
    call = SPELLINGS["deepseek-v3"].call("f", {})
    assert read(parser_of("deepseek-v3"), f"look\n{begin}{call}\n{call}{end}") == [
        Content("look"), ToolCall("f", "{}"), ToolCall("f", "{}")
    ]  # fmt: skip
    assert read(parser_of("deepseek-v3"), f"{begin} nothing {end}") == [Content(f"{begin} nothing {end}")]


@pytest.mark.parametrize(
    ("written", "schema", "read_as"),
    [
        ("1.0", {"type": "number"}, "1.0"),
        ("5", {"type": "string"}, '"5"'),
        ("5", {}, "5"),
        ("five", {"type": "integer"}, '"five"'),
        ("True", {"type": "boolean"}, "true"),
        ("null", {"anyOf": [{"type": "string"}, {"type": "null"}]}, "null"),
        ("text", {"type": ["string", "null"]}, '"text"'),
        ('{"b":  1}', {"type": "object"}, '{"b":  1}'),
        ('"quoted"', {"type": "string"}, '"\\"quoted\\""'),
        ("2", {"$ref": "#/$defs/Two"}, "2"),
        ("2", {"enum": ["1", "2"]}, '"2"'),
        ("2", {"allOf": [{"type": ["integer", "string"]}, {"type": "string"}]}, '"2"'),
        ("2", {"$ref": "#/nowhere"}, "2"),
    ],
)
def test_a_bare_value_is_read_by_its_schema(written, schema, read_as):
    parameters = {"type": "object", "properties": {"v": schema}, "$defs": {"Two": {"type": "integer"}}}
    for tool in ({"type": "function", "function": {"name": "f", "parameters": parameters}},
                 {"name": "f", "input_schema": parameters}):  # fmt: skip
        parser = TOOL_FORMATS["glm"].parser([tool])
        [call] = read(parser, f"<tool_call>f\n<arg_key>v</arg_key>\n<arg_value>{written}</arg_value>\n</tool_call>")
        assert call.arguments == '{"v": ' + read_as + "}"


def test_harmony_has_reasoning_content_and_calls_on_channels():
    text = (
        "<|channel|>analysis<|message|>Where?<|end|><|start|>assistant<|channel|>commentary<|message|>I look.<|end|>"
        '<|start|>assistant to=functions.look<|channel|>commentary json<|message|>{"where": "here"}'
    )
    assert read(HarmonyParser(), text) == [
        Reasoning("Where?"), Content("I look."), ToolCall("look", '{"where": "here"}')
    ]  # fmt: skip
    final = "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>analysis<|message|>b<|end|>"
    final += "<|start|>assistant<|channel|>final<|message|>Here.<|return|>"
    assert read(HarmonyParser(), final) == [Reasoning("a\n\nb"), Content("Here.")]
    assert read(HarmonyParser(prompt_end="<|start|>assistant<|channel|>analysis<|message|>"), "hm") == [Reasoning("hm")]


def test_harmony_without_tools_shows_a_call_as_content():
    text = SPELLINGS["harmony"].call("look", {})
    assert read(HarmonyParser(with_tools=False), text) == [Content(text)]


@pytest.mark.parametrize("tool_format", WITH_CALLS)
def test_arguments_nested_deeper_than_can_be_read_are_text(tool_format):
    deep = "[" * 5000 + "]" * 5000
    text = SPELLINGS[tool_format].call("look", {"deep": "HERE"}).replace('"HERE"', deep).replace("HERE", deep)
    events = read(parser_of(tool_format), text)
    assert [type(event) for event in events] in ([Malformed], [ToolCall])


@pytest.mark.parametrize("tool_format", WITH_CALLS)
@pytest.mark.parametrize("kind", ["call", "spaces", "quotes"])
def test_the_cost_of_many_small_pieces_is_linear(tool_format, kind):
    def cost(size: int) -> float:
        call = SPELLINGS[tool_format].call("look", {"where": "abc, " * (size // 5)})
        text = {
            "call": call,
            "spaces": "x" + " " * size,
            "quotes": call[: len(call) // 4] + '"' * (size // 2),
        }[kind]
        started = time.process_time()
        parser = parser_of(tool_format, reasoning="think")
        for place in range(0, len(text), 4):
            parser.push(text[place : place + 4])
        parser.finish()
        return time.process_time() - started

    small = min(cost(4_000) for _ in range(3))
    assert cost(64_000) < 16 * 5 * small + 0.05


@settings(max_examples=40)
@given(
    text=st.text(alphabet="ab", max_size=12),
    markers=st.lists(st.text(alphabet="ab", min_size=1, max_size=4), min_size=1),
)
def test_what_may_be_the_beginning_of_a_marker_is_held_and_no_more(text, markers):
    may_be = [k for k in range(1, len(text) + 1) for m in markers if len(m) > k and m.startswith(text[-k:])]
    assert partial(text, tuple(markers)) == max(may_be, default=0)


def test_a_marker_behind_a_shield_is_found_in_any_pieces():
    until = Until(("END",), {"(": re.compile(r"\)")})
    assert until.push("a (EN") is None
    assert until.push("D) E") is None
    assert until.held() == "a (END) E"
    found = until.push("ND rest")
    assert (found.before, found.marker, found.rest) == ("a (END) ", "END", " rest")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"tools": "hermess"}, "--tool-parser hermess: choose from auto, harmony"),
        ({"reasoning": "deep"}, "--reasoning-parser deep: choose from auto, none"),
        ({"tools": "harmony", "reasoning": "none"}, "use harmony, or auto, for both"),
        ({"tools": "hermes", "reasoning": "harmony"}, "use harmony, or auto, for both"),
    ],
)
def test_parsers_that_do_not_exist_or_agree_are_refused(options, named):
    with pytest.raises(ConfigError, match=named):
        Parsers(template="", **options)


def test_markers_are_those_of_the_chosen_formats_and_no_ending_is_one():
    for tool_format in TOOL_FORMATS:
        for reasoning in REASONING_PARSERS:
            if (tool_format == "harmony") == (reasoning in ("harmony", "auto")):
                parsers = Parsers(tools=tool_format, reasoning=reasoning, template="")
                assert not parsers.markers & parsers.endings
    assert Parsers(tools="none", reasoning="none", template="").markers == frozenset()
    assert Parsers(tools="llama3", reasoning="mistral", template="").markers == {
        "<|python_tag|>",
        "[THINK]",
        "[/THINK]",
    }
    assert Parsers(tools="harmony", template="").endings == {"<|call|>", "<|return|>"}


def test_python_lists_are_read_bare_with_all_of_pythons_literals_and_names_of_json():
    text = "[look(where='it''s', far=-1.5, deep={'a': [1, (2, None)]}), a.b(), c(\"x]\", )]"
    assert read(parser_of("pythonic"), text) == [Malformed(text)]
    text = (
        "\n[look(where='it' 's', far=-1.5, deep={'a': [True, (2, None)]}), a.b(), c(x='''y\")]''', z=[true, null])]\n"
    )
    assert read(parser_of("pythonic"), text) == [
        ToolCall("look", '{"where": "its", "far": -1.5, "deep": {"a": [true, [2, null]]}}'),
        ToolCall("a.b", "{}"),
        ToolCall("c", '{"x": "y\\")]", "z": [true, null]}'),
    ]


@pytest.mark.parametrize(
    "text", ["[1, 2]", "[look](there)", "[]", "[look, (1)]", "see [f(a=1)]", "[", "[look", "[ loo"]
)
def test_a_list_that_is_no_call_is_an_answer(text):
    assert read(parser_of("pythonic"), text) == [Content(text)]


@pytest.mark.parametrize(
    "value",
    [
        *("print(1)", "__import__('os')", "1e999", "lambda: 1", "{*()}", "{**{}}", "{1}", "b'1'", "1j", "f''", "-x"),
        *("-" * 100_000 + "1", "(" * 10_000 + ")" * 10_000, "1+" * 50_000 + "1", "a" + ".b" * 50_000),
    ],
    ids=range(15),
)
def test_nothing_in_a_python_call_is_evaluated_however_deep_it_is(value):
    text = f"[f(x={value})]"
    assert read(parser_of("pythonic"), text) == [Malformed(text)]


def test_a_tool_whose_name_python_does_not_have_cannot_be_forced():
    parsers = Parsers(tools="pythonic", reasoning="none", template="")
    assert (parsers.forced("a.look"), parsers.forced("a-look"), parsers.begun_call) == ("[a.look(", None, None)
