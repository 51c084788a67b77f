"""Token ids to text, as they arrive: never half a character, never a stop string.

What a whole completion decodes to does not depend on the pieces it arrived in, so that streamed and plain replies
agree. What the text means is for `parsers`.
"""

import codecs
from collections.abc import Collection, Sequence
from typing import Protocol, cast

import msgspec
from msgspec import Struct
from tokenizers import Tokenizer, decoders

REPLACEMENT = "\ufffd"
Utf8 = cast("type[codecs.BufferedIncrementalDecoder]", codecs.getincrementaldecoder("utf-8"))


class Decoder(Protocol):
    """Turns one completion's ids into text, piece by piece."""

    def push(self, ids: Sequence[int]) -> str:
        """Return the text that became certain."""
        ...

    def finish(self) -> str:
        """Return what was held back; bytes that never became a character are shown as U+FFFD."""
        ...


class Shown(Struct, frozen=True, gc=False):
    """A single token as replies with logprobs show it, special tokens included."""

    text: str
    raw: bytes
    """Its bytes, which may be half a character."""
    row: bytes
    """OpenAI's JSON up to the alternatives, as a format that takes the logprob. Written once: replies have hundreds."""
    alone: bytes
    """The same to its end, where no alternatives are shown."""


def shown_as(text: str, raw: bytes) -> Shown:
    """Return how a token of this text and these bytes is shown."""
    name = msgspec.json.encode(text).replace(b"%", b"%%")
    row = b'{"token":%b,"logprob":%%b,"bytes":%b' % (name, msgspec.json.encode(list(raw)))
    return Shown(text, raw, row, row + b',"top_logprobs":[]}')


class Vocabulary:
    """What each token id looks like as text. `hidden` ids (special tokens) have none."""

    def __init__(self, tokenizer: Tokenizer, hidden: Collection[int]) -> None:
        self.tokenizer = tokenizer
        self.hidden = frozenset(hidden)
        self._byte_level = isinstance(tokenizer.decoder, decoders.ByteLevel)
        self._added = {index: token.content for index, token in tokenizer.get_added_tokens_decoder().items()}
        self._shown: dict[int, Shown] = {}
        self._bytes: dict[int, bytes] = dict.fromkeys(self.hidden, b"")

    def decoder(self) -> Decoder:
        """Return a decoder for one completion."""
        return ByteDecoder(self) if self._byte_level else WindowDecoder(self)

    def bytes_of(self, token: int) -> bytes:
        """Return a token's bytes; only meaningful for byte-level vocabularies."""
        known = self._bytes.get(token)
        if known is None:
            known = self._bytes[token] = self._spell(token)
        return known

    def spelling(self, ids: Sequence[int]) -> bytes:
        """Return the bytes of tokens in a row; only meaningful for byte-level vocabularies."""
        if len(ids) == 1:  # as nearly every event of a stream
            return self.bytes_of(ids[0])
        try:
            return b"".join(map(self._bytes.__getitem__, ids))
        except KeyError:  # each is spelled once
            return b"".join(map(self.bytes_of, ids))

    def shown(self, token: int) -> Shown:
        """Return how replies with logprobs show a token."""
        known = self._shown.get(token)
        if known is None:
            text = self._added.get(token) or self.tokenizer.decode([token], skip_special_tokens=False)
            raw = text.encode() if token in self._added or not self._byte_level else self.bytes_of(token)
            known = self._shown[token] = shown_as(text, raw)
        return known

    def all_shown(self, tokens: Sequence[int]) -> list[Shown]:
        """Return how replies with logprobs show tokens."""
        try:
            return list(map(self._shown.__getitem__, tokens))
        except KeyError:  # each is looked at once
            return list(map(self.shown, tokens))

    def literal(self, token: int) -> str:
        """Return a single token as text, special tokens included."""
        return self.shown(token).text

    def _spell(self, token: int) -> bytes:
        if token in self._added:
            return self._added[token].encode()
        piece = self.tokenizer.id_to_token(token) or ""
        if all(character in BYTE_OF for character in piece):
            return bytes(BYTE_OF[character] for character in piece)
        return piece.encode()


class NothingDecoder:
    """For engines that return text: there are no ids."""

    def push(self, ids: Sequence[int]) -> str:
        assert not ids
        return ""

    def finish(self) -> str:
        return ""


class ByteDecoder:
    """For byte-level vocabularies (GPT-2, Llama 3, Qwen): a table look-up per token."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._utf8 = Utf8("replace")

    def push(self, ids: Sequence[int]) -> str:
        spelled = self._vocabulary.spelling(ids)
        if not self._utf8.buffer and spelled.isascii():
            return spelled.decode("ascii")
        return self._utf8.decode(spelled)

    def finish(self) -> str:
        return self._utf8.decode(b"", final=True)


class WindowDecoder:
    """For every other vocabulary: decode a token beside its predecessors and keep what it adds."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._ids: list[int] = []
        self._context = 0
        self._read = 0

    def push(self, ids: Sequence[int]) -> str:
        return "".join(self._step(token) for token in ids if token not in self._vocabulary.hidden)

    def finish(self) -> str:
        return self._added()

    def _step(self, token: int) -> str:
        self._ids.append(token)
        added = self._added()
        if not added or added.endswith(REPLACEMENT):
            return ""
        self._context, self._read = self._read, len(self._ids)
        return added

    def _added(self) -> str:
        decode = self._vocabulary.tokenizer.decode
        before = decode(self._ids[self._context : self._read], skip_special_tokens=False)
        return decode(self._ids[self._context :], skip_special_tokens=False)[len(before) :]


class StopCut:
    """Ends the text before the first stop string, which the engine includes in what it returns."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self._cut = False

    def push(self, text: str) -> str:
        if not self._stops:
            return text
        if self._cut:
            return ""
        self._held += text
        found = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if found:
            self._cut = True
            return self._held[: min(found)]
        return self._release(keep=max(overlap(self._held, stop) for stop in self._stops))

    def finish(self) -> str:
        return "" if self._cut else self._release(keep=0)

    def _release(self, keep: int) -> str:
        split = len(self._held) - keep
        out, self._held = self._held[:split], self._held[split:]
        return out


def overlap(text: str, marker: str) -> int:
    """Return how many characters at the end of `text` may be the beginning of `marker` (never all of it)."""
    for length in range(min(len(text), len(marker) - 1), 0, -1):
        if text.endswith(marker[:length]):
            return length
    return 0


def _byte_alphabet() -> dict[str, int]:
    """Return GPT-2's spelling of bytes as printable characters, inverted."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    shifted = (byte for byte in range(256) if byte not in printable)
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(shifted)}


BYTE_OF = _byte_alphabet()
