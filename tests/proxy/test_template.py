"""Chat templates: rendered as transformers renders them, and given tool calls in the shape they can write."""

import json
from datetime import datetime
from typing import Any

import pytest
from families import FAMILIES
from family_talk import TOOLS
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import TemplateError
from thorough import examples
from tiny_models import TEMPLATES as TINY

from nexrl.errors import ConfigError
from nexrl_proxy.errors import ApiError
from nexrl_proxy.fitting import AS_THEY_ARE, Fit, fit_of, short
from nexrl_proxy.render import Renderer
from nexrl_proxy.template import REFUSALS, Template, sources_of

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
SOURCES = {**TINY, **{name: family.template for name, family in FAMILIES.items()}}
MIXED = (
    "{%- for m in messages %}{% if loop.index0 == 7 %}{% break %}{% endif %}{% if m.skip %}{% continue %}{% endif %}"
    "{% generation %}{{ m.content }}{% for t in tools or [] %}{{ t | tojson(indent=2) }}{% endfor %}{% endgeneration %}"
    "{{ m | tojson(separators=(',', ':'), sort_keys=true) }}{{ m | tojson(ensure_ascii=true) }}{% endfor %}"
    "{{ strftime_now('%Y') }}{{ bos_token }}{% if documents is none %}none{% endif %}"
    "{% if add_generation_prompt %}\n  go{% endif %}\n"
)
SOURCES["everything"] = MIXED
TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
ARGUMENTS = st.dictionaries(
    TEXTS, st.one_of(TEXTS, st.integers(), st.floats(allow_nan=False), st.none(), st.booleans())
)


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Return messages as the proxy hands them to a template."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": draw(TEXTS)}] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        messages.append({"role": "user", "content": draw(TEXTS)})
        reply: dict[str, Any] = {"role": "assistant", "content": draw(TEXTS)}
        if draw(st.booleans()):
            reply["reasoning_content"] = draw(TEXTS)
        messages.append(reply)
        if draw(st.booleans()):
            ident = f"call_{draw(st.integers(0, 10**9)):024d}"
            function = {"name": draw(TEXTS), "arguments": draw(ARGUMENTS)}
            reply["tool_calls"] = [{"type": "function", "function": function, "id": ident}]
            messages.append({"role": "tool", "tool_call_id": ident, "content": draw(TEXTS)})
    return messages[: draw(st.integers(1, len(messages)))]


def theirs(source: str, messages: list[Any], **options: Any) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    [rendered], _ = render_jinja_template([messages], chat_template=source, **options)
    return rendered


@pytest.mark.parametrize("name", SOURCES)
@given(conversations(), st.booleans(), st.booleans(), st.sampled_from([{}, {"enable_thinking": False}]))
@examples(3)
def test_a_template_renders_as_with_transformers(name, messages, generate, with_tools, kwargs):
    tools = TOOLS if with_tools else None
    template = Template({"default": SOURCES[name]}, TOKENS)
    try:
        expected = theirs(SOURCES[name], messages, tools=tools, add_generation_prompt=generate, **TOKENS, **kwargs)
    except Exception:  # noqa: BLE001 - whatever theirs is, ours is a refusal
        with pytest.raises(REFUSALS):
            template.render(messages, tools=tools, kwargs=kwargs, generate=generate)
    else:
        assert template.render(messages, tools=tools, kwargs=kwargs, generate=generate) == expected


def test_the_time_is_told_as_the_machine_tells_it():
    template = Template({"default": "{{ strftime_now('%Y-%m-%d') }}"}, {})
    before = datetime.now().astimezone()
    text = template.render([], tools=None, kwargs={}, generate=True)
    assert text in {f"{moment:%Y-%m-%d}" for moment in (before, datetime.now().astimezone())}


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('not so') }}",
        "{{ messages[0].content + 1 }}",
        "{{ missing.field }}",
        "{{ 1 // 0 }}",
        "{{ range(10000000) }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__ }}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
        "{{ [1][messages] }}{{ messages | join(1) | first | int | round('x') }}",
    ],
)
def test_what_a_template_cannot_render_is_the_clients_error(source, tmp_path, model_dir):
    made = model_dir("chatml")
    for file in made.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "chat_template.jinja").write_text(source)
    renderer = Renderer(tmp_path)
    with pytest.raises(ApiError, match="the model's chat template refuses these messages"):
        renderer.render([{"role": "user", "content": "x"}], tools=None, kwargs={}, generate=True)


def test_a_template_with_a_mistake_is_named_at_the_start():
    with pytest.raises(ConfigError, match="line 2"):
        Template({"default": "fine\n{% if %}"}, {})


def test_a_model_may_have_a_template_for_tools(tmp_path):
    named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    template = Template(sources_of(tmp_path), {})
    rendered = [template.render([], tools=tools, kwargs={}, generate=True) for tools in (None, TOOLS)]
    assert rendered == ["plain", "tools"]


CALL_SPELLED = "{% for m in messages %}{% for c in m.tool_calls or [] %}{{ c.function.name }}{% endfor %}{% endfor %}"
DEEPSEEK = (
    "{% for m in messages %}{% if m.role == 'assistant' and m.content is none %}{% for c in m.tool_calls %}"
    "{{ '<call>' + c.function.name + c.function.arguments + '</call>' }}{% endfor %}"
    "{% elif m.role == 'assistant' %}{{ m.content }}{% endif %}{% endfor %}"
)
MISTRAL = (
    "{% for m in messages %}{% for c in m.tool_calls or [] %}{% if c.id | length != 9 %}"
    "{{ raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}{% endif %}"
    "{{ c.function | tojson }}{{ c.id }}{% endfor %}"
    "{% if m.role == 'tool' %}{% if m.tool_call_id | length != 9 %}{{ raise_exception('no') }}{% endif %}"
    "{{ m.tool_call_id }}{% endif %}{% endfor %}"
)
STRINGS = (
    "{% for m in messages %}{% for c in m.tool_calls or [] %}{{ c.function.name + c.function.arguments }}"
    "{% endfor %}{% endfor %}"
)
SILENT = "{% for m in messages %}{{ m.content }}{% endfor %}"


@pytest.mark.parametrize(
    ("source", "fit"),
    [
        (CALL_SPELLED, AS_THEY_ARE),
        (SILENT, AS_THEY_ARE),
        (STRINGS, Fit(string_arguments=True)),
        (DEEPSEEK, Fit(null_content=True, string_arguments=True)),
        (MISTRAL, Fit(short_ids=True)),
        *[(source, AS_THEY_ARE) for source in SOURCES.values()],
    ],
    ids=["objects", "no calls", "strings", "deepseek", "mistral", *SOURCES],
)
def test_tool_calls_are_given_in_the_shape_a_template_can_write(source, fit):
    template = Template({"default": source}, TOKENS)
    assert fit_of(lambda messages: template.render(messages, tools=None, kwargs={}, generate=True)) == fit


def test_what_a_template_is_given_leaves_the_messages_as_they_are():
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
    messages = [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "assistant", "content": "text", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": ""},
    ]
    kept = json.dumps(messages)
    fitted = Fit(null_content=True, string_arguments=True, short_ids=True)(messages)
    assert json.dumps(messages) == kept
    assert [message["content"] for message in fitted] == [None, "text", ""]
    assert fitted[0]["tool_calls"][0]["function"]["arguments"] == '{"a":1}'
    assert fitted[0]["tool_calls"][0]["id"] == fitted[2]["tool_call_id"] == short("call_1")
    assert (len(short("call_1")), short("call_1").isalnum()) == (9, True)


def test_a_refusal_of_the_sandbox_is_a_template_error():
    assert issubclass(TemplateError, REFUSALS)


THINKING = (
    "{% for m in messages %}"
    "{% if m.thinking and m.content and m.tool_calls %}{{ raise_exception('not both') }}{% endif %}"
    "{{ (m.thinking or '') + m.content }}{% endfor %}"
)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": "", "reasoning_content": "hm", "tool_calls": [{}]}, "hm"),
        ({"content": "so", "reasoning_content": "hm"}, "hmso"),
        ({"content": "so", "reasoning_content": "hm", "tool_calls": [{}]}, "so"),
    ],
    ids=["beside a call", "beside text", "beside both, where the template would rather refuse"],
)
def test_reasoning_has_the_name_that_a_template_calls_it_by(message, text):
    template = Template({"default": THINKING}, {})
    assert template.render([message], tools=None, kwargs={}, generate=True) == text
