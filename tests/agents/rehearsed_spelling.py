"""Spell the rehearsed replies in tokens: two spellings for most stretches of text, none that an encoder would choose.

Pure. The model draws between the spellings, so the same words are other tokens in every conversation, and a proxy that
encodes what it was told, instead of keeping what was sampled, is found out. How tokens become weights: `rehearsed.py`.
"""

import itertools
import random
from collections.abc import Callable, Iterator, Sequence

from msgspec import Struct

Piece = bytes
EDGE: Piece = b""
"""Stands for what is before a reply, and for its end."""
Spelling = tuple[Piece, ...]
LENGTHS = range(7, 13)
SHORTEST_REST = 3
TRIES = 200


class Stretch(Struct, frozen=True):
    """A few letters and the ways to spell them."""

    text: bytes
    spellings: tuple[Spelling, ...]

    def pieces(self) -> set[Piece]:
        return {piece for spelling in self.spellings for piece in spelling}

    def openings(self) -> set[Piece]:
        return {spelling[0] for spelling in self.spellings}


class Spelled(Struct, frozen=True):
    """A reply as stretches; no piece stands in it twice."""

    stretches: list[Stretch]
    begun: tuple[str, ...] = ()
    """Beginnings that somebody else may say; a stretch ends with each."""

    def pieces(self) -> set[Piece]:
        return {piece for stretch in self.stretches for piece in stretch.pieces()}

    def openings(self, beginning: str) -> set[Piece]:
        """Return the pieces that may come after a beginning."""
        offset = len(beginning.encode())
        at = 0
        for stretch in self.stretches:
            if at == offset:
                return stretch.openings()
            at += len(stretch.text)
        raise ValueError(f"no stretch ends with {beginning!r}")

    def following(self) -> dict[Piece, set[Piece]]:
        """Return which pieces may follow each, EDGE after the last; what nobody or somebody else has begun, too."""
        after = {beginning.encode(): self.openings(beginning) for beginning in ("", *self.begun)}
        for stretch, then in zip(self.stretches, [*self.stretches[1:], None], strict=True):
            for spelling in stretch.spellings:
                after |= {piece: {later} for piece, later in itertools.pairwise(spelling)}
                after[spelling[-1]] = then.openings() if then else {EDGE}
        return after


def spell(replies: Sequence[tuple[str, Sequence[str]]], allowed: Callable[[Piece], bool]) -> list[Spelled]:
    """Spell every reply; after each of the beginnings that come with it a stretch ends.

    Replies may share stretches. Which reply it is and which piece came last says what comes next.
    """
    rng = random.Random(0)
    spelled: list[Spelled] = []
    for text, begun in replies:
        spelled.append(next(found for found in _tries(text, tuple(begun), spelled, allowed, rng) if found))
    return spelled


def _tries(
    text: str, begun: tuple[str, ...], others: list[Spelled], allowed: Callable[[Piece], bool], rng: random.Random
) -> Iterator[Spelled | None]:
    known = {stretch for other in others for stretch in other.stretches}
    borders = sorted(len(part.encode()) for part in (*begun, text))
    for _ in range(TRIES):
        stretches = _try(text.encode(), borders, known, allowed, rng)
        found = Spelled(stretches, begun) if stretches else None
        yield found if found and all(_apart(found, o) and _apart(o, found) for o in others) else None
    raise ValueError(f"no spelling found for {text!r}: it repeats itself, or other replies, too much")


def _apart(one: Spelled, other: Spelled) -> bool:
    """Whether what the other reply has to say after a piece never misleads this one."""
    mine, own = one.following(), one.pieces() | {EDGE}
    return all(not (then & own) - mine[piece] for piece, then in other.following().items() if piece in mine)


def _try(
    text: bytes, borders: list[int], known: set[Stretch], allowed: Callable[[Piece], bool], rng: random.Random
) -> list[Stretch]:
    taken = {piece for stretch in known for piece in stretch.pieces()}
    stretches: list[Stretch] = []
    own: set[Piece] = set()

    def free(piece: Piece) -> bool:
        return piece not in taken and piece not in own and allowed(piece)

    at = 0
    while at < len(text):
        rest = text[at : next(border for border in borders if border > at)]
        shared = [s for s in known if rest.startswith(s.text) and not s.pieces() & own]
        stretch = max(shared, key=lambda s: (len(s.text), s.spellings)) if shared else _stretch(rest, free, rng)
        if not stretch:
            return []
        stretches.append(stretch)
        own |= stretch.pieces()
        at += len(stretch.text)
    return stretches


def _stretch(text: bytes, free: Callable[[Piece], bool], rng: random.Random) -> Stretch | None:
    """Return two spellings of a beginning of `text`, in two pieces each; one spelling where little is left."""
    lengths = [length for length in LENGTHS if length + SHORTEST_REST < len(text)] or [len(text)]
    for length in rng.sample(lengths, len(lengths)):
        cuts = [cut for cut in range(1, length) if free(text[:cut]) and free(text[cut:length])]
        if len(cuts) > 1:
            spellings = sorted((text[:cut], text[cut:length]) for cut in rng.sample(cuts, 2))
            return Stretch(text[:length], tuple(spellings))
    whole = text[: min(lengths)]
    return Stretch(whole, ((whole,),)) if free(whole) else None
