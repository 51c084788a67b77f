"""Lay out one step: the new tokens of all scheduled requests, packed into one row, and what each attends to.

Requests with one new token in neighbouring slots are attended as one padded batch, on a view of the cache; those with
more new tokens one by one. `attention.py` executes the layout.
"""

from collections.abc import Sequence

import torch
from msgspec import Struct
from torch import Tensor

_SLACK = 64  # positions of padding that cost less than another kernel call


class Piece(Struct, frozen=True):
    """The part of one request that this step computes."""

    slot: int
    start: int
    """Position of the first new token; everything before it is cached."""
    ids: Sequence[int]
    samples: bool
    """Whether it reaches the end of its request, so that a token is drawn."""


class Run(Struct, frozen=True):
    """Rows first <= i < last of the packed row attend to slots low <= s < high, up to `length` positions."""

    first: int
    last: int
    low: int
    high: int
    length: int
    mask: Tensor | None
    """Bool, True where attended; None: everything, or causally for a chunk that starts at position 0."""


class Batch(Struct, frozen=True):
    input_ids: Tensor  # [1, tokens]
    positions: Tensor  # [1, tokens]
    slots: Tensor  # [tokens]
    keep: Tensor  # [sampled]: rows whose logits are wanted
    singles: list[Run]
    chunks: list[Run]
    length: int
    """The longest request's length after this step: what the cache must hold."""


def in_order(pieces: Sequence[Piece]) -> list[int]:
    """Return the order in which `lay_out` wants pieces: single tokens by slot, then chunks."""
    return sorted(range(len(pieces)), key=lambda i: (len(pieces[i].ids) > 1, pieces[i].slot))


def lay_out(pieces: Sequence[Piece], device: torch.device) -> Batch:
    """Return the layout of pieces that stand `in_order`."""
    ids = [token for piece in pieces for token in piece.ids]
    positions = [piece.start + offset for piece in pieces for offset in range(len(piece.ids))]
    slots = [piece.slot for piece in pieces for _ in piece.ids]
    ends: list[int] = []
    for piece in pieces:
        ends.append((ends[-1] if ends else 0) + len(piece.ids))
    singles = sum(len(piece.ids) == 1 for piece in pieces)
    return Batch(
        input_ids=torch.tensor([ids], device=device),
        positions=torch.tensor([positions], device=device),
        slots=torch.tensor(slots, device=device),
        keep=torch.tensor(
            [end - 1 for piece, end in zip(pieces, ends, strict=True) if piece.samples],
            dtype=torch.long,
            device=device,
        ),
        singles=_single_runs(pieces[:singles], device),
        chunks=[_chunk(piece, end, device) for piece, end in zip(pieces[singles:], ends[singles:], strict=True)],
        length=max(positions) + 1,
    )


def neighbours(slots: Sequence[int], lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Cut ascending slots into runs without a gap whose lengths are alike, as (first, last) index pairs.

    Example: slots 0 1 2 5 with lengths 90 80 900 70 -> (0, 2), (2, 3), (3, 4).
    """
    runs: list[tuple[int, int]] = []
    for index, (slot, length) in enumerate(zip(slots, lengths, strict=True)):
        if runs:
            first, last = runs[-1]
            alike = [*lengths[first:last], length]
            if slot == slots[index - 1] + 1 and max(alike) <= 2 * min(alike) + _SLACK:
                runs[-1] = (first, index + 1)
                continue
        runs.append((index, index + 1))
    return runs


def _single_runs(pieces: Sequence[Piece], device: torch.device) -> list[Run]:
    lengths = [piece.start + 1 for piece in pieces]
    runs: list[Run] = []
    for first, last in neighbours([piece.slot for piece in pieces], lengths):
        longest = max(lengths[first:last])
        mask = None
        if min(lengths[first:last]) < longest:
            ends = torch.tensor(lengths[first:last], device=device)
            mask = (torch.arange(longest, device=device) < ends[:, None])[:, None, None]
        runs.append(Run(first, last, pieces[first].slot, pieces[last - 1].slot + 1, longest, mask))
    return runs


def _chunk(piece: Piece, end: int, device: torch.device) -> Run:
    count = len(piece.ids)
    length = piece.start + count
    mask = torch.ones(count, length, dtype=torch.bool, device=device).tril(piece.start) if piece.start else None
    return Run(end - count, end, piece.slot, piece.slot + 1, length, mask)
