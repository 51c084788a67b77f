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
from msgspec import Struct
from tokenizers import Tokenizer

from nexrl.errors import ConfigError
from nexrl.records import Int32s
from nexrl_proxy.words import words_of

MARK = "\ufdd0"
"""A Unicode noncharacter; `MARK` and a private-use character after it stand for one control token's text."""
FIRST = 0xE000
_MARKED = re.compile(f"{MARK}(.)", re.DOTALL)
MOST_CACHED = 16 * 2**20
"""Characters whose ids are remembered: system prompts and tools come again with every conversation."""
SPACES = r"\s*"
_TAG = re.compile(r"</?[a-z][a-z0-9_]*>")
"""`<think>`, `</tool_call>`: text that models and frameworks write themselves, where not declared special."""


class Added(Struct, frozen=True):
    """A token beside the vocabulary proper, as `tokenizer.json` declares it."""

    id: int
    text: str
    special: bool
    single_word: bool
    lstrip: bool
    rstrip: bool

    @property
    def control(self) -> bool:
        """Whether it structures the conversation. Models without `special` flags on theirs (DeepSeek) are no excuse.

        Example: `<|im_end|>`, `[INST]`, `</s>` (special) do; `<think>`, `</tool_call>` are text.
        """
        return self.special or not _TAG.fullmatch(self.text)


class Encoder:
    """A tokenizer, as prompts need it."""

    def __init__(self, path: Path) -> None:
        """Read a `tokenizer.json`; raises ConfigError where it cannot be used."""
        settings = _read(path)
        self.added = [_added(entry) for entry in settings.get("added_tokens") or ()]
        self._id_of = {token.text: token.id for token in self.added}
        self._controls = [MARK, *sorted(token.text for token in self.added if token.control)]
        self._marks = {text: MARK + chr(FIRST + index) for index, text in enumerate(self._controls)}
        self._marked = re.compile(_alternatives(self._controls))
        self._json_marked = re.compile(self._marked.pattern.encode())
        self._finds_added = re.compile(_alternatives_of(self.added)) if self.added else None
        plain = _plain(settings)
        self.tokenizer = _tokenizer(path, plain)
        inner = _never_first(plain)
        self._inner = self.tokenizer if inner == plain else _tokenizer(path, inner)
        self._words = words_of(self.tokenizer, settings)
        self._cache: OrderedDict[tuple[str, bool], Int32s] = OrderedDict()
        self._cached = 0

    def shield(self, value: Any) -> Any:
        """Return JSON-like data in which no string holds a control token's text."""
        if not self._json_marked.search(msgspec.json.encode(value)):
            return value
        return self._shielded(value)

    def encode(self, text: str) -> Int32s:
        """Return the ids of a rendered text."""
        ids = Int32s()
        place = 0
        for found in self._finds_added.finditer(text) if self._finds_added else ():
            self._plainly(ids, text, place, found.start())
            ids.append(self._id(found[0]))
            place = found.end()
        self._plainly(ids, text, place, len(text))
        return ids

    def control_at(self, text: str) -> str:
        """Return the control token that a rendered text begins with, or ""."""
        found = self._marked.match(text)
        return found[0] if found and found[0] != MARK else ""

    def unshield(self, text: str) -> str:
        """Return text as people said it."""
        if MARK not in text:
            return text
        return _MARKED.sub(lambda mark: self._controls[ord(mark[1]) - FIRST], text)

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

    def _id(self, matched: str) -> int:
        """Return the id of an added token, which may have taken the whitespace around it."""
        found = self._id_of.get(matched)
        return self._id_of[matched.strip()] if found is None else found

    def _plainly(self, ids: Int32s, text: str, start: int, end: int) -> None:
        if start < end:
            ids.extend(self._segment(text[start:end], inner=start > 0))

    def _segment(self, text: str, *, inner: bool) -> Int32s:
        key = (text, inner)
        if (known := self._cache.get(key)) is not None:
            self._cache.move_to_end(key)
            return known
        said = self.unshield(text)
        if self._words and said.isascii():
            ids = self._words.encode(said)
        else:
            ids = Int32s((self._inner if inner else self.tokenizer).encode(said, add_special_tokens=False).ids)
        self._remember(key, ids)
        return ids

    def _remember(self, key: tuple[str, bool], ids: Int32s) -> None:
        self._cache[key] = ids
        self._cached += len(key[0]) + 64
        while self._cached > MOST_CACHED:
            (forgotten, _), _ = self._cache.popitem(last=False)
            self._cached -= len(forgotten) + 64


def _alternatives(texts: list[str]) -> str:
    return "|".join(map(re.escape, sorted(texts, key=len, reverse=True)))


def _alternatives_of(tokens: list[Added]) -> str:
    """Return an expression that finds added tokens as the tokenizer does: leftmost, longest, with their flags."""
    patterns: list[str] = []
    for token in sorted(tokens, key=lambda token: len(token.text), reverse=True):
        text = re.escape(token.text)
        if token.single_word:
            text = rf"(?<!\w){text}(?!\w)"
        before, behind = (SPACES if strips else "" for strips in (token.lstrip, token.rstrip))
        patterns.append(before + text + behind)
    return "|".join(patterns)


def _never_first(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings for text in the middle: nothing is put before its first word."""

    def changed(value: Any) -> Any:
        if isinstance(value, dict):
            inner = {name: changed(item) for name, item in value.items()}
            return inner | {"prepend_scheme": "never"} if inner.get("prepend_scheme") == "first" else inner
        return [changed(item) for item in value] if isinstance(value, list) else value

    return settings | {"pre_tokenizer": changed(settings.get("pre_tokenizer"))}


def _added(entry: dict[str, Any]) -> Added:
    flags = {name: bool(entry.get(name)) for name in ("special", "single_word", "lstrip", "rstrip")}
    return Added(id=entry["id"], text=entry["content"], **flags)


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
