"""Tokens beside a vocabulary: which of them structure a conversation, and where they stand in a text.

They are found as the `tokenizers` library finds them. What a text holds between them is `encoding`'s.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import Struct

from nexrl.records import Int32s, pack

_TAG = re.compile(r"</?[a-z][a-z0-9_]*>")
"""`<think>`, `</tool_call>`: text that models and frameworks write themselves, where not declared special."""
_MARKUP = re.compile(r"[<\[{|].*[>\]}|]", re.DOTALL)
# Not `\s`: Python counts U+001C to U+001F as whitespace, and the library does not.
WHITESPACE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
_SPACES = re.compile(f"[{WHITESPACE}]*")
_WORDY = frozenset({"Mn", "Mc", "Me", "Nd", "Nl", "Pc"})
_JOINERS = "\u200c\u200d"


class Added(Struct, frozen=True):
    """A token beside the vocabulary proper, as `tokenizer.json` declares it."""

    id: int
    packed: bytes
    text: str
    special: bool
    single_word: bool
    lstrip: bool
    rstrip: bool

    @property
    def control(self) -> bool:
        """Whether it structures the conversation. Models without `special` flags on theirs (DeepSeek) are no excuse.

        Example: `<|im_end|>`, `[INST]`, `</s>` (special) do; `<think>`, `</tool_call>` are text, and so are words and
        runs of whitespace that a vocabulary adds (Gemma).
        """
        return self.special or bool(_MARKUP.fullmatch(self.text) and not _TAG.fullmatch(self.text))


class Found(Struct, frozen=True):
    """Where an added token stands, the whitespace it takes included."""

    start: int
    end: int
    packed: bytes
    """Its id."""


class AddedTokens:
    """The added tokens of one tokenizer."""

    def __init__(self, entries: Sequence[dict[str, Any]]) -> None:
        """Take them as `tokenizer.json` lists them."""
        self.tokens = [_added(entry) for entry in entries]
        self._by_text = {token.text: token for token in self.tokens}
        self._texts = re.compile(alternatives([token.text for token in self.tokens])) if self.tokens else None

    def find(self, text: str) -> Iterator[Found]:
        """Yield every added token of a text, first to last: leftmost and longest, each with what its flags give it."""
        place = 0
        for match in self._texts.finditer(text) if self._texts else ():
            token = self._by_text[match[0]]
            start, end = match.span()
            if token.single_word and (_is_word(text[start - 1 : start]) or _is_word(text[end : end + 1])):
                continue
            if token.lstrip:
                start = place + len(text[place:start].rstrip(WHITESPACE))
            if token.rstrip and (spaces := _SPACES.match(text, end)):
                end = spaces.end()
            yield Found(start, end, token.packed)
            place = end


def alternatives(texts: Sequence[str]) -> str:
    """Return an expression that matches the longest of some texts."""
    return "|".join(map(re.escape, sorted(texts, key=len, reverse=True)))


def _added(entry: dict[str, Any]) -> Added:
    flags = {name: bool(entry.get(name)) for name in ("special", "single_word", "lstrip", "rstrip")}
    return Added(id=entry["id"], packed=pack(Int32s([entry["id"]])), text=entry["content"], **flags)


def _is_word(character: str) -> bool:
    """Whether a character, if there is one, is part of a word."""
    if not character:
        return False
    return character.isalpha() or character in _JOINERS or unicodedata.category(character) in _WORDY
