"""Messages as templates want them, and as they are recognised when they come back."""

import pytest

from nexrl_proxy.errors import ApiError
from nexrl_proxy.messages import canonical, normalised


def calling(arguments, **more):
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [call], **more}


def form(message):
    [plain] = normalised([message])
    return canonical(plain)


def test_the_five_rules_make_real_messages_render():
    assert normalised(
        [
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            calling('{"x": 1}', refusal=None, annotations=[]),
            {"role": "tool", "content": "sunny"},
            {"role": "assistant"},
        ]
    ) == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "ab"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}, "id": "c1"}],
        },
        {"role": "tool", "content": "sunny"},
        {"role": "assistant", "content": ""},
    ]


@pytest.mark.parametrize(
    "same",
    [
        calling('{ "b": {"z": [1.0]}, "a": "é" }'),
        calling('{"a":"\\u00e9","b":{"z":[1]}}'),
        calling({"a": "é", "b": {"z": [1]}}),
        calling('{"a": "é", "b": {"z": [1]}}', content="", reasoning_content="hm"),
        calling('{"a": "é", "b": {"z": [1]}}', content=" \n"),
    ],
)
def test_a_message_is_recognised_however_it_was_spelled(same):
    assert form(same) == form(calling('{"a": "é", "b": {"z": [1]}}'))


@pytest.mark.parametrize(
    "other",
    [
        calling('{"a": "e"}'),
        calling('{"a": "é", "b": 1.5}'),
        calling('{"a": "é"}', content="text"),
        {"role": "assistant", "content": None},
    ],
)
def test_a_changed_message_is_another(other):
    assert form(other) != form(calling('{"a": "é"}'))


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file"])
def test_a_part_that_is_not_text_is_refused_by_name(kind):
    with pytest.raises(ApiError, match=kind):
        normalised([{"role": "user", "content": [{"type": "text", "text": "see"}, {"type": kind}]}])
