"""The longest beginning of some bytes that was seen before, in one pass over them.

Pure. Holds digests, not the bytes. A session recognises by it what a request repeats of earlier ones: messages as they
stand in the body, raw text, token ids.
"""

from collections import Counter, OrderedDict
from hashlib import blake2b
from typing import Any, Generic, TypeVar

from msgspec import Struct

ValueT = TypeVar("ValueT")


class Known(Struct, Generic[ValueT], frozen=True):
    """A beginning that was seen before."""

    length: int
    value: ValueT
    digest: Any
    """Of kind and beginning: what goes on from there is hashed from there."""


class Prefixes(Generic[ValueT]):
    """At most `most` byte strings, each with a value; those seen longest ago are forgotten first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.values: OrderedDict[tuple[int, bytes], ValueT] = OrderedDict()
        self._lengths: Counter[int] = Counter()

    def remember(self, kind: bytes, data: bytes, value: ValueT, *, known: Known[ValueT] | None = None) -> None:
        """Keep a value for `data`; strings of different kinds have nothing to do with each other.

        `known`: the beginning that was found for this kind and data.
        """
        digest = known.digest.copy() if known else blake2b(kind, digest_size=16)
        digest.update(memoryview(data)[known.length if known else 0 :])
        self._keep((len(data), digest.digest()), value)

    def _keep(self, key: tuple[int, bytes], value: ValueT) -> None:
        if key not in self.values:
            self._lengths[key[0]] += 1
        self.values[key] = value
        self.values.move_to_end(key)
        while len(self.values) > self._most:
            (length, _), _ = self.values.popitem(last=False)
            self._lengths[length] -= 1
            if not self._lengths[length]:
                del self._lengths[length]

    def adopt(self, later: "Prefixes[ValueT]") -> None:
        """Take over what another one remembers, as seen after everything here."""
        for key, value in later.values.items():
            self._keep(key, value)

    def longest(self, kind: bytes, data: bytes) -> Known[ValueT] | None:
        """Return the longest remembered string that `data` begins with."""
        found: Known[ValueT] | None = None
        digest, read = blake2b(kind, digest_size=16), 0
        for length in sorted(length for length in self._lengths if length <= len(data)):
            digest.update(memoryview(data)[read:length])
            read = length
            key = (length, digest.digest())
            if key in self.values:
                found = Known(length, self.values[key], digest.copy())
        return found
