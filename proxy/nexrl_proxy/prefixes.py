"""The longest beginning of some bytes that was seen before, in one pass over them.

Pure. Holds digests, not the bytes. A session recognises by it what a request repeats of earlier ones: messages as they
stand in the body, raw text, token ids.
"""

from collections import Counter, OrderedDict
from hashlib import blake2b
from typing import Generic, TypeVar

ValueT = TypeVar("ValueT")


class Prefixes(Generic[ValueT]):
    """At most `most` byte strings, each with a value; those seen longest ago are forgotten first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.values: OrderedDict[tuple[int, bytes], ValueT] = OrderedDict()
        self._lengths: Counter[int] = Counter()

    def remember(self, kind: bytes, data: bytes, value: ValueT) -> None:
        """Keep a value for `data`; strings of different kinds have nothing to do with each other."""
        self._keep((len(data), blake2b(kind + data, digest_size=16).digest()), value)

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

    def longest(self, kind: bytes, data: bytes) -> tuple[int, ValueT] | None:
        """Return the length and the value of the longest remembered string that `data` begins with."""
        found: tuple[int, ValueT] | None = None
        digest, read = blake2b(kind, digest_size=16), 0
        for length in sorted(length for length in self._lengths if length <= len(data)):
            digest.update(data[read:length])
            read = length
            key = (length, digest.digest())
            if key in self.values:
                found = (length, self.values[key])
        return found
