"""Text to token ids, with a wall between what the template writes and what people say.

A control token (`<|im_end|>`) is one id where the chat template wrote it. Where the same characters stand in
somebody's message they are spelled as ordinary text: nobody can end a turn, or open one, by writing so. `shield` marks
them before the template is rendered, `encode` reads the marks.
"""

import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import msgspec
from tokenizers import Tokenizer

from nexrl.errors import ConfigError
from nexrl.records import Int32s, pack, unpack_int32s
from nexrl_proxy.added import AddedTokens, alternatives
from nexrl_proxy.words import words_of

MARK = "\ufdd0"
"""A Unicode noncharacter; `MARK` and a private-use character after it stand for one control token's text."""
FIRST = 0xE000
_MARKED = re.compile(f"{MARK}(.)", re.DOTALL)
MOST_CACHED = 16 * 2**20
"""Characters whose ids are remembered: system prompts and tools come again with every conversation."""


class Encoder:
    """A tokenizer, as prompts need it."""

    def __init__(self, path: Path) -> None:
        """Read a `tokenizer.json`; raises ConfigError where it cannot be used."""
        settings = _read(path)
        added = settings.get("added_tokens") or ()
        self._added = AddedTokens(added)
        self.added = self._added.tokens
        self._controls = [MARK, *sorted(token.text for token in self.added if token.control)]
        self._marks = {text: MARK + chr(FIRST + index) for index, text in enumerate(self._controls)}
        self._marked = re.compile(alternatives(self._controls))
        self._in_json = [_in_json(text).encode() for text in self._controls]
        self._beginnings = {text[:2] for text in self._in_json}
        """Few, and seldom met: looked for first."""
        plain = _plain(settings)
        self.tokenizer = _tokenizer(path, plain)
        inner, behind = _unprefixed(plain, always=False), _unprefixed(plain, always=True)
        self._inner = self.tokenizer if inner == plain else _tokenizer(path, inner)
        self._behind = self._inner if behind == inner else _tokenizer(path, behind)
        self._words = words_of(self.tokenizer, settings)
        self.largest = max([_largest(settings), *(token.id for token in self.added)])
        """The largest id there is."""
        self._cache: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._cached = 0

    def shield(self, value: Any) -> Any:
        """Return JSON-like data in which no string holds a control token's text."""
        written = msgspec.json.encode(value)
        if not any(beginning in written for beginning in self._beginnings):
            return value
        if not any(control in written for control in self._in_json):
            return value
        return self._shielded(value)

    def encode(self, text: str, *, behind: bool = False) -> Int32s:
        """Return the ids of a rendered text; `behind` other text, nothing is put before its first word."""
        packed: list[bytes] = []
        place = 0
        tokenizer = self._behind if behind else self.tokenizer
        for found in self._added.find(text):
            if place < found.start:
                packed.append(self._segment(text[place : found.start], tokenizer))
            packed.append(found.packed)
            place, tokenizer = found.end, self._inner
        if place < len(text):
            packed.append(self._segment(text[place:], tokenizer))
        return unpack_int32s(b"".join(packed))

    def control_at(self, text: str) -> str:
        """Return the control token that a rendered text begins with, or ""."""
        found = self._marked.match(text)
        return found[0] if found and found[0] != MARK else ""

    def control_ending(self, text: str) -> str:
        """Return the control token that a rendered text ends with, or ""."""
        endings = (control for control in self._controls if control != MARK and text.endswith(control))
        return max(endings, key=len, default="")

    def unshield(self, text: str) -> str:
        """Return text as people said it."""
        if MARK not in text:
            return text
        return _MARKED.sub(self._said, text)

    def unmarked(self, text: str) -> str:
        """Return text for `encode` in which nothing is taken for a mark."""
        return text.replace(MARK, self._marks[MARK])

    def _said(self, mark: re.Match[str]) -> str:
        index = ord(mark[1]) - FIRST
        return self._controls[index] if 0 <= index < len(self._controls) else mark[0]  # half a mark, cut by a template

    def _shielded(self, value: Any) -> Any:
        match value:
            case str():
                return self._marked.sub(lambda found: self._marks[found[0]], value)
            case dict():
                return {self._shielded(name): self._shielded(item) for name, item in value.items()}
            case list() | tuple():
                return [self._shielded(item) for item in value]
            case _:
                return value

    def _segment(self, text: str, tokenizer: Tokenizer) -> bytes:
        """Return the packed ids of text between added tokens."""
        key = (text, id(tokenizer))
        if (known := self._cache.get(key)) is not None:
            self._cache.move_to_end(key)
            return known
        said = self.unshield(text)
        ids = self._words.encode(said) if self._words else pack(Int32s(_ids(tokenizer, said)))
        self._remember(key, ids)
        return ids

    def _remember(self, key: tuple[str, int], ids: bytes) -> None:
        self._cache[key] = ids
        self._cached += len(key[0]) + 64
        while self._cached > MOST_CACHED:
            (forgotten, _), _ = self._cache.popitem(last=False)
            self._cached -= len(forgotten) + 64


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False).ids


def _largest(settings: dict[str, Any]) -> int:
    vocabulary = (settings.get("model") or {}).get("vocab") or {}
    return max(vocabulary.values(), default=0) if isinstance(vocabulary, dict) else len(vocabulary) - 1


def _in_json(text: str) -> str:
    return msgspec.json.encode(text).decode()[1:-1]


def _unprefixed(settings: dict[str, Any], *, always: bool) -> dict[str, Any]:
    """Return a tokenizer's settings for text that is not the first.

    `always`: nothing is put before it either that comes before every piece of text between added tokens.
    """

    def changed(step: Any) -> Any:
        match step:
            case {"type": "Sequence"}:
                return {
                    name: [*map(changed, value)] if isinstance(value, list) else value for name, value in step.items()
                }
            case {"type": "Metaspace", "prepend_scheme": scheme} if always or scheme == "first":
                return step | {"prepend_scheme": "never"}
            case {"type": "ByteLevel", "add_prefix_space": True} if always:
                return step | {"add_prefix_space": False}
            case {"type": "Prepend"} if always:
                return step | {"prepend": ""}
            case _:
                return step

    return settings | {name: changed(settings.get(name)) for name in ("normalizer", "pre_tokenizer")}


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a tokenizer that can be told to read every added token as ordinary text."""
    added = [entry | {"special": True} for entry in settings.get("added_tokens") or ()]
    return {**settings, "added_tokens": added, "truncation": None, "padding": None}


def _read(path: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode(path.read_bytes())
    except FileNotFoundError as error:
        message = f"--model: {path} is missing; save the model's fast tokenizer there (save_pretrained)"
        raise ConfigError(message) from error
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"--model: {path} cannot be read as a tokenizer: {error}") from error


def _tokenizer(path: Path, settings: dict[str, Any]) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_str(msgspec.json.encode(settings).decode())
    except Exception as error:  # the library raises bare Exception
        raise ConfigError(f"--model: {path} cannot be read as a tokenizer: {error}") from error
    tokenizer.encode_special_tokens = True
    return tokenizer
