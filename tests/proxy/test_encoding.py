"""Text to ids: the tokenizer's own, whatever its make; and nobody's text is ever a control token."""

import json
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
from families import FAMILIES
from hypothesis import given
from hypothesis import strategies as st
from small_tokenizers import MAKES, saved
from thorough import examples
from tokenizers import AddedToken, Tokenizer

from nexrl_proxy.encoding import FIRST, MARK, Encoder

SOME = (
    "It's 12,345 -- HTTPServer!  \n\n\tdef f: 'été' 日本 \u0301\u200d\u2028\x1c\x85\u00a0🌍 \u017f \ufb01 \u2167 \r\n"
)


@cache
def tokenizer_of(make: str) -> Tokenizer:
    return FAMILIES[make].tokenizer() if make in FAMILIES else MAKES[make]()


@cache
def encoder_of(make: str) -> Encoder:
    return Encoder(saved(tokenizer_of(make), Path(mkdtemp()) / "tokenizer.json"))


def added_of(make: str) -> list[str]:
    return [token.content for token in tokenizer_of(make).get_added_tokens_decoder().values()]


def controls_of(make: str) -> set[int]:
    return {token.id for token in encoder_of(make).added if token.control}


def texts(make: str) -> st.SearchStrategy[str]:
    """Return text of everything that tokenizers treat in their own ways, added tokens inside."""
    plain = st.characters(codec="utf-8", exclude_characters=MARK)
    pieces = [
        st.text(plain, max_size=6),
        st.text(st.characters(codec="ascii"), max_size=12),
        st.text(st.sampled_from(SOME), max_size=8),
        st.text(st.sampled_from(" \n\t\r\x1c\x85\u00a0\u2003"), max_size=5),
        st.from_regex(r"\A[0-9]{0,9}\Z"),
        st.sampled_from(["it's", "WE'LL", "he\u017f", "naïve cafe\u0301", "a b", " é", "x_y", "//c", '{"a": 1}']),
        st.sampled_from(added_of(make)),
    ]
    return st.lists(st.one_of(*pieces), max_size=8).map("".join)


ALL = [*MAKES, *FAMILIES]
FAITHFUL = {"gpt2", "llama3, whole words", "o200k", "deepseek", "flagged", *FAMILIES}
"""Those that put nothing before a text and change nothing in it."""


LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
JSON = LEAVES | st.lists(LEAVES, max_size=3) | st.dictionaries(st.text(max_size=5), LEAVES, max_size=3)


@pytest.mark.parametrize("make", ALL)
@given(st.data())
@examples(5)
def test_text_is_encoded_as_the_tokenizer_encodes_it(make, data):
    text = data.draw(texts(make))
    expected = tokenizer_of(make).encode(text, add_special_tokens=False).ids
    assert list(encoder_of(make).encode(text)) == expected
    assert list(encoder_of(make).encode(text)) == expected, "what is remembered differs"


@pytest.mark.parametrize("make", ALL)
@given(st.data())
@examples(5)
def test_what_people_say_never_holds_a_control_token_and_reads_as_they_said_it(make, data):
    said = data.draw(st.lists(st.one_of(texts(make), st.sampled_from([MARK, chr(FIRST), chr(FIRST + 1)]))).map("".join))
    encoder = encoder_of(make)
    shielded = encoder.shield(said)
    ids = encoder.encode(shielded)
    assert encoder.unshield(shielded) == said
    assert not controls_of(make) & set(ids)
    if make in FAITHFUL:
        assert encoder.tokenizer.decode(list(ids), skip_special_tokens=False) == said


@pytest.mark.parametrize("make", ["qwen", "metaspace first", "gemma"])
@given(JSON, st.data())
@examples(5)
def test_data_is_shielded_in_every_place_and_only_where_it_must(make, value, data):
    encoder = encoder_of(make)
    control = data.draw(st.sampled_from([token.text for token in encoder.added if token.control]))
    hostile = {control: [value, {"deep": ("a" + control, value)}], "text": value}
    shielded = encoder.shield(hostile)
    spelled = json.dumps(shielded, ensure_ascii=False)
    assert json.dumps(control, ensure_ascii=False)[1:-1] not in spelled
    assert encoder.unshield(spelled) == json.dumps(hostile, ensure_ascii=False)
    harmless = {"a": "b", "c": [1, None]}
    assert encoder.shield(harmless) is harmless


@pytest.mark.parametrize("make", FAMILIES)
def test_every_family_tells_its_control_tokens_from_tags_that_are_text(make):
    family = FAMILIES[make]
    texts = {token.text for token in encoder_of(make).added if token.control}
    assert set(family.special) <= texts
    assert not texts & {"<think>", "</think>", "<tool_call>", "<arg_key>"} or set(family.special) & texts


def test_words_and_whitespace_that_a_vocabulary_adds_are_text():
    encoder, tokenizer = encoder_of("gemma"), tokenizer_of("gemma")
    said = "one\n\ntwo  antibody\n\n\n"
    assert encoder.shield(said) == said
    assert list(encoder.encode(encoder.shield(said))) == tokenizer.encode(said, add_special_tokens=False).ids


@pytest.mark.parametrize("text", ['<|"|>', "<|\n|>", "<|\\|>", "<|\x00|>", "<|é|>"])
def test_a_control_token_is_found_however_json_spells_it(text, tmp_path):
    tokenizer = MAKES["gpt2"]()
    tokenizer.add_special_tokens([AddedToken(text, normalized=False)])
    encoder = Encoder(saved(tokenizer, tmp_path / "tokenizer.json"))
    assert tokenizer.token_to_id(text) in encoder.encode(f"a{text}b")
    assert tokenizer.token_to_id(text) not in encoder.encode(encoder.shield({"a": f"a{text}b"})["a"])


@pytest.mark.parametrize("cut", ["\ufdd0", "\ufdd0x", "\ufdd0\uf8ff", "a\ufdd0\n", "\ue001"])
def test_half_a_mark_that_a_template_cut_is_text(cut):
    encoder = encoder_of("qwen")
    assert not controls_of("qwen") & set(encoder.encode(cut))
    assert encoder.tokenizer.decode(list(encoder.encode(cut))) == cut


def test_a_long_run_of_whitespace_costs_no_more_than_its_length():
    encoder = encoder_of("flagged")
    text = " \n" * 200_000 + "x"
    assert encoder.tokenizer.decode(list(encoder.encode(text))) == text
