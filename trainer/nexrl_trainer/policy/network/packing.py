"""How sequences are laid out for one pass: as a tree, so that a beginning that several of them share is computed once.

Pure, of token ids alone. `attention.py` attends along the tree, `tensors.py` makes tensors of it, `batches.py` decides
what is trained at all.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from msgspec import Struct

from nexrl.records import Int32s

SHORTEST_SHARED = 16
"""Tokens that several sequences must share to be a node of their own: a shorter one costs more calls than it saves."""

FINE_ENOUGH = 0.5
"""Tokens of cost by which parts may miss the best balance."""


class Block(Struct, frozen=True, kw_only=True):
    """Rows that attend to rows: `rows` to all of `keys`, or causally to themselves where the two are the same."""

    rows: tuple[int, int]
    """First row and the one after the last."""
    keys: tuple[int, int]

    @property
    def causal(self) -> bool:
        return self.rows == self.keys


class Layout(Struct, frozen=True, kw_only=True):
    """A forest of token runs, depth first, as one row of tokens."""

    blocks: list[Block]
    """Every row stands in exactly one causal block; blocks that are not come after it."""
    pieces: list[list[tuple[int, int, int]]]
    """By sequence: (first row, first position, position after the last) of the runs it consists of."""
    size: int
    """Rows."""
    longest: int
    """Tokens of the longest sequence."""


class Cost(Struct, frozen=True, kw_only=True):
    """What a pass costs, in tokens: each token one, and a bit for each earlier token it attends to."""

    pair: float
    """A pair's share of what a token costs without attention: about 1 / (6 x hidden size)."""

    def of(self, start: int, end: int) -> float:
        """Cost of computing positions start to end of a sequence."""
        return end - start + self.pair * (end * end - start * start) / 2


class _Part(NamedTuple):
    """Neighbours in the order, all of them laid out up to the same position."""

    low: int
    high: int
    depth: int


def lay_out(sequences: Sequence[Int32s]) -> Layout:
    """Lay sequences out so that a shared beginning of SHORTEST_SHARED tokens or more stands there once.

    Example (P a shared prompt, A B completions): P A and P B -> rows P A B; A and B attend to P and to themselves.
    """
    order, shared = _sorted(sequences)
    blocks: list[Block] = []
    above: list[Block] = []
    pieces: list[list[tuple[int, int, int]]] = [[] for _ in sequences]
    row = 0
    todo: list[_Part | Block] = [*_children(shared, _Part(0, len(order), 0))]
    while todo:
        item = todo.pop()
        if isinstance(item, Block):
            # All that is below a node stands there: those rows attend to the node's.
            if row > item.keys[1]:
                above.append(Block(rows=(item.keys[1], row), keys=item.keys))
            continue
        low, high, depth = item
        end = len(sequences[order[low]]) if high - low == 1 else min(shared[low + 1 : high])
        node = (row, row + end - depth)
        if end > depth:
            for index in order[low:high]:
                pieces[index].append((row, depth, end))
            blocks.append(Block(rows=node, keys=node))
            row = node[1]
        if high - low > 1:
            todo += [Block(rows=node, keys=node), *_children(shared, _Part(low, high, end))]
    return Layout(blocks=blocks + above, pieces=pieces, size=row, longest=max(map(len, sequences), default=0))


def halved(blocks: Sequence[Block], most: int) -> list[Block]:
    """Return the same attention in causal blocks of at most `most` rows, and what they leave over in others.

    Example: a causal block of rows 0 to 8, at most 4 -> causal 0 to 4 and 4 to 8; rows 4 to 8 attend to 0 to 4.
    """
    causal: list[Block] = []
    others = [block for block in blocks if not block.causal]
    todo = [block.rows for block in reversed(blocks) if block.causal]
    while todo:
        first, last = todo.pop()
        if last - first <= most:
            causal.append(Block(rows=(first, last), keys=(first, last)))
            continue
        middle = (first + last) // 2
        todo += [(middle, last), (first, middle)]
        others.append(Block(rows=(middle, last), keys=(first, middle)))
    return causal + others


def plan(sequences: Sequence[Int32s], budget: int, cost: Cost, ranks: int = 1) -> list[list[list[int]]]:
    """Deal sequences to ranks, and each rank's into passes of at most `budget` rows; a longer sequence goes alone.

    Returns indices by rank and pass. Neighbours in lexicographic order share most, so every cut is made in that order;
    ranks get about equal cost, a rank's passes too. Nothing is split, so losses over whole sequences stay exact.
    """
    order, shared = _sorted(sequences)
    lengths = [len(sequences[index]) for index in order]
    parts = _cut(lengths, shared, math.inf, cost, ranks)
    parts += [(len(order), len(order))] * (ranks - len(parts))
    planned: list[list[list[int]]] = []
    for low, high in parts:
        inner = _cut(lengths[low:high], shared[low:high], budget, cost, None)
        planned.append([order[low + first : low + last] for first, last in inner])
    return planned


def _cut(
    lengths: Sequence[int], shared: Sequence[int], budget: float, cost: Cost, count: int | None
) -> list[tuple[int, int]]:
    """Cut into `count` parts (None: as few as the budget allows) whose dearest is as cheap as can be."""
    if not lengths:
        return []
    whole = _fill(lengths, shared, budget, cost, math.inf)
    most = count or len(whole)
    low, high = 0.0, sum(cost.of(0, length) for length in lengths)
    while high - low > FINE_ENOUGH:
        middle = (low + high) / 2
        if len(_fill(lengths, shared, budget, cost, middle)) <= most:
            high = middle
        else:
            low = middle
    return _fill(lengths, shared, budget, cost, high)


def _fill(
    lengths: Sequence[int], shared: Sequence[int], budget: float, cost: Cost, most: float
) -> list[tuple[int, int]]:
    """Cut where the next sequence would exceed the budget of rows or the cost of a part."""
    starts: list[int] = []
    rows = spent = math.inf
    for index, length in enumerate(lengths):
        rows += length - shared[index]
        spent += cost.of(shared[index], length)
        if rows > budget or spent > most:
            starts.append(index)
            rows, spent = length, cost.of(0, length)
    return list(pairwise([*starts, len(lengths)]))


def _sorted(sequences: Sequence[Int32s]) -> tuple[list[int], list[int]]:
    """Return the lexicographic order, and how many tokens each shares with the one before it (too few: 0)."""
    order = sorted(range(len(sequences)), key=lambda index: sequences[index])
    pairs = pairwise(order)
    return order, [0, *(_common(sequences[one], sequences[other]) for one, other in pairs)][: len(order)]


def _common(one: Int32s, other: Int32s) -> int:
    """Length of the common beginning, 0 where it is below SHORTEST_SHARED."""
    low, high = 0, min(len(one), len(other))
    if one[:high] == other[:high]:
        low = high
    while high - low > 1:
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low if low >= SHORTEST_SHARED else 0


def _children(shared: Sequence[int], part: _Part) -> list[_Part]:
    """Split where neighbours do not share enough beyond the part's depth; last first, as a stack wants it."""
    low, high, depth = part
    starts = [low, *(index for index in range(low + 1, high) if shared[index] < depth + SHORTEST_SHARED), high]
    return [_Part(first, last, depth) for first, last in pairwise(starts)][::-1] if high > low else []
