"""Byte-level BPE word by word from a dictionary: the tokenizer's ids, in less time.

A byte-level tokenizer cuts text into words by regular expressions and encodes each by itself, so a word's ids can be
remembered. ASCII is cut here, where Python's `re` and the tokenizer's engine agree on what a letter is; other words are
left to the tokenizer, one by one where it begins a word at every single space. Only for tokenizers that prove to.
"""

import re
from collections.abc import Iterator
from itertools import product
from typing import Any

from tokenizers import Tokenizer

from nexrl.records import Int32s, pack
from nexrl_proxy.text import BYTE_OF

MOST_WORDS = 200_000
"""Some 30 MB; then the dictionary starts anew."""
LONGEST_WORD = 64
_CLASSES = {
    "L": "A-Za-z",
    "Lu": "A-Z",
    "Ll": "a-z",
    "Lt": "",
    "Lm": "",
    "Lo": "",
    "M": "",
    "N": "0-9",
    "Nd": "0-9",
    "P": r"!\"#%&'()*,\-./:;?@\[\\\]_{}",
    "S": r"$+<=>\^`|~",
}
_HARMLESS_NORMALIZERS = ("NFC", "NFKC")
"""They do nothing to ASCII."""
_PROBE = (
    "It's 1,234.50 or 99% -- isn't it?\n\n  def f(x):\n\treturn {'a': [1,2], \"b\": x**2}\r\n \r\n\n   ...   end  \n"
    "HTTPServer2go we'LL I'M he'd x_y a--b //c #d <tool>&amp;</tool> \\n \x00\x1c\x7f\v\f end of text 12345678   "
)

_SPELLED = {byte: character for character, byte in BYTE_OF.items()}
_SPACED = re.compile(r"(?<=\S)(?= \S)")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
_KINDS = (
    "a",
    "Z",
    "7",
    ".",
    "'s",
    "\u00e9",
    "\u00c9",
    "\u65e5",
    "\u0301",
    "\u2019",
    "\u2026",
    "\U0001f600",
    "\u0967",
    "\u200d",
    "\u20ac",
)


class Dictionary(dict[str, bytes]):
    """Packed ids by word: a text's are joined without looking at each. A word that is missing is learnt."""

    def __init__(self, plain: Tokenizer) -> None:
        super().__init__()
        self._plain = plain
        self._model = plain.model

    def __missing__(self, word: str) -> bytes:
        if word.isascii():  # a piece as the model gets it: nothing else would be done to it
            ids = [token.id for token in self._model.tokenize(word.translate(_SPELLED))]
        else:
            ids = self._plain.encode(word, add_special_tokens=False).ids
        packed = pack(Int32s(ids))
        if len(word) <= LONGEST_WORD:
            if len(self) >= MOST_WORDS:
                self.clear()
            self[word] = packed
        return packed


class Words:
    """One tokenizer's way of cutting text, and its dictionary."""

    def __init__(self, plain: Tokenizer, cuts: list[re.Pattern[str]]) -> None:
        self._cuts = cuts
        self._known = Dictionary(plain)

    def encode(self, text: str) -> bytes:
        """Return the packed ids of text without control tokens."""
        if text.isascii():
            return self._ascii(text)
        found: list[bytes] = []
        place = 0
        for start, end in _foreign(text):
            if place < start:
                found.append(self._ascii(text[place:start]))
            found.append(self._known[text[start:end]])
            place = end
        found.append(self._ascii(text[place:]))
        return b"".join(found)

    def _ascii(self, text: str) -> bytes:
        return b"".join(map(self._known.__getitem__, self._words(text)))

    def _words(self, text: str) -> list[str]:
        words = self._cuts[0].findall(text)
        for cut in self._cuts[1:]:
            words = [piece for word in words for piece in cut.findall(word)]
        return words


def _foreign(text: str) -> Iterator[tuple[int, int]]:
    """Yield where the pieces stand that hold more than ASCII; pieces begin at every single space."""
    end = 0
    for found in _NOT_ASCII.finditer(text):
        if found.start() < end:
            continue
        start = _gap_before(text, found.start(), end)
        gap = _SPACED.search(text, found.end())
        end = gap.start() if gap else len(text)
        yield start, end


def _gap_before(text: str, place: int, first: int) -> int:
    """Return the last beginning of a piece up to `place`, or `first`."""
    while (place := text.rfind(" ", first, place)) >= 0:
        if _SPACED.match(text, place):
            return place
    return first


def words_of(plain: Tokenizer, settings: dict[str, Any]) -> Words | None:
    """Return the dictionary for a tokenizer without added tokens; None where it is not known to cut words like ours.

    `settings` is the tokenizer's JSON.
    """
    cuts = _cuts(settings)
    if cuts is None or (settings.get("model") or {}).get("type") != "BPE":
        return None
    words = Words(plain, cuts)
    encoded = ((words.encode(probe), plain.encode(probe, add_special_tokens=False).ids) for probe in _probes())
    return words if all(ours == pack(Int32s(theirs)) for ours, theirs in encoded) else None


def _probes() -> Iterator[str]:
    """Yield texts that show how words are cut: much punctuation, and every pair of kinds of character at a space."""
    yield from (_PROBE, _PROBE[::-1], _PROBE.upper(), "", " ", "\n", "a")
    for before, behind in product(_KINDS, repeat=2):
        yield f"{before} {behind}{before}\u00e9 {behind}"


def _cuts(settings: dict[str, Any]) -> list[re.Pattern[str]] | None:
    normalizers = _flat(settings.get("normalizer"), "normalizers")
    *splits, last = _flat(settings.get("pre_tokenizer"), "pretokenizers") or [{}]
    if any(step["type"] not in _HARMLESS_NORMALIZERS for step in normalizers):
        return None
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space"):
        return None
    patterns = [_pattern(split) for split in splits]
    if last.get("use_regex", True):
        patterns.append(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
    if not patterns or None in patterns:
        return None
    try:
        return [_complete(pattern) for pattern in patterns if pattern]
    except re.error:
        return None


def _flat(step: Any, inner: str) -> list[dict[str, Any]]:
    if not step:
        return []
    return list(step[inner]) if step["type"] == "Sequence" else [step]


def _pattern(split: dict[str, Any]) -> str | None:
    """Return the expression of a step that isolates what it matches and what lies between."""
    match split:
        case {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated", "invert": False}:
            return pattern
        case _:
            return None


def _complete(pattern: str) -> re.Pattern[str]:
    """Return the expression for ASCII; what it does not match is a piece of its own."""
    ascii_only = in_ascii(pattern)
    return re.compile(f"(?:{ascii_only})|(?:(?!(?:{ascii_only}))[\\s\\S])+", re.ASCII)


def in_ascii(pattern: str) -> str:
    r"""Return a regular expression with Unicode classes spelled out. Example: `\p{N}|[^\p{L}]` -> `[0-9]|[^A-Za-z]`."""
    out: list[str] = []
    inside = False
    for part in re.findall(r"\\p\{\w+\}|\\.|.", pattern, re.DOTALL):
        if part.startswith("\\p{"):
            name = part[3:-1]
            if name not in _CLASSES:
                raise re.error(f"unknown class {name}")
            out.append(_CLASSES[name] if inside else f"[{_CLASSES[name]}]" if _CLASSES[name] else "(?!)")
            continue
        if len(part) == 1:
            inside = part == "[" or (inside and part != "]")
        out.append(part)
    return "".join(out)
