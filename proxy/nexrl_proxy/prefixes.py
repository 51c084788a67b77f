"""The longest beginning of some bytes that was seen before, in one pass over them, or in two where many look alike.

Pure. Holds digests, not the bytes. A session recognises by it what a request repeats of earlier ones: messages as they
stand in the body, raw text, token ids.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterable
from hashlib import sha256
from typing import Any, Generic, NamedTuple, TypeVar

from msgspec import Struct

ValueT = TypeVar("ValueT")
ENDING = 24
"""Bytes at a beginning's end by which it is told from others before anything is hashed."""
DIGEST = 16


class Known(Struct, Generic[ValueT], frozen=True):
    """A beginning that was seen before."""

    length: int
    value: ValueT
    digest: Any
    """Of kind and beginning: what goes on from there is hashed from there."""


class Key(NamedTuple):
    """What is held of a byte string."""

    length: int
    ending: bytes
    digest: bytes


class Prefixes(Generic[ValueT]):
    """At most `most` byte strings, each with a value; those seen longest ago are forgotten first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.values: OrderedDict[Key, ValueT] = OrderedDict()
        self._endings: Counter[tuple[int, bytes]] = Counter()

    def remember(self, kind: bytes, data: bytes, value: ValueT, *, known: Known[ValueT] | None = None) -> None:
        """Keep a value for `data`; strings of different kinds have nothing to do with each other.

        `known`: the beginning that was found for this kind and data.
        """
        digest = known.digest.copy() if known else _hash(kind)
        digest.update(memoryview(data)[known.length if known else 0 :])
        self._keep(_key(data, len(data), digest), value)

    def _keep(self, key: Key, value: ValueT) -> None:
        if key not in self.values:
            self._endings[key[:2]] += 1
        self.values[key] = value
        self.values.move_to_end(key)
        while len(self.values) > self._most:
            forgotten, _ = self.values.popitem(last=False)
            self._endings[forgotten[:2]] -= 1
            if not self._endings[forgotten[:2]]:
                del self._endings[forgotten[:2]]

    def adopt(self, later: "Prefixes[ValueT]") -> None:
        """Take over what another one remembers, as seen after everything here."""
        for key, value in later.values.items():
            self._keep(key, value)

    def longest(self, kind: bytes, data: bytes) -> Known[ValueT] | None:
        """Return the longest remembered string that `data` begins with."""
        size = len(data)
        places = sorted(
            {length for length, ending in self._endings if length <= size and data.endswith(ending, 0, length)}
        )
        # It nearly always is the longest that ends alike, and then only that one is hashed.
        return self._last(kind, data, places[-1:]) or self._last(kind, data, places[:-1])

    def _last(self, kind: bytes, data: bytes, places: Iterable[int]) -> Known[ValueT] | None:
        """Return the last of some ascending places up to which `data` was seen before."""
        found: Known[ValueT] | None = None
        digest, read = _hash(kind), 0
        for length in places:
            digest.update(memoryview(data)[read:length])
            read = length
            key = _key(data, length, digest)
            if key in self.values:
                found = Known(length, self.values[key], digest.copy())
        return found


def _hash(kind: bytes) -> Any:
    """Return SHA-256 of a kind: processors compute it four times as fast as BLAKE2 is computed without their help."""
    return sha256(kind, usedforsecurity=False)


def _key(data: bytes, length: int, digest: Any) -> Key:
    return Key(length, data[max(0, length - ENDING) : length], digest.digest()[:DIGEST])
