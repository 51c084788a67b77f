"""Checksums of tensors, as engines compute them: equal ones mean equal bytes. Pure.

Both are SGLang's (`/weights_checker`): SHA-256 where a tensor is in CPU memory, which the embedded engine uses
everywhere, and a sum of mixed words where it is on a GPU. Each is written as 16 hexadecimal digits.
"""

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Words = NDArray[np.uint32]
TILE = 8192
"""Words that are summed before their sum is mixed."""
TILES_AT_ONCE = 16
_MIX = (0x85EBCA6B, 0xC2B2AE35)
"""Of MurmurHash3's 32-bit finaliser."""
_SEED = 0x243F6A88
_HALVES = (
    (0x27D4EB2D, _SEED, 15),
    (0x165667B1, (_SEED * 0x9E3779B1 ^ 0xDEADBEEF) & 0xFFFFFFFF, 13),
)
"""How a word's place is mixed in, for the upper and the lower half: factor, summand, rotation."""
_LARGEST = 2**64 - 1


def digest(tensor: Tensor) -> str:
    """Return the first half of the SHA-256 of a tensor's bytes."""
    return hashlib.sha256(_bytes(tensor).data).hexdigest()[:16]


def mixed(tensor: Tensor) -> str:
    """Return what SGLang's `gpu_tensor_hash` returns for a tensor on a GPU; an empty one is 0."""
    data = _bytes(tensor)
    words = np.pad(data, (0, -len(data) % 4)).view(np.uint32)
    step = TILE * TILES_AT_ONCE
    total = sum(_mixed(words[at : at + step], at, size=words.nbytes) for at in range(0, len(words), step))
    return f"{_finished(total):016x}"


def _bytes(tensor: Tensor) -> NDArray[np.uint8]:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def _mixed(words: Words, start: int, *, size: int) -> int:
    """Return the sum over tiles of these words, which begin at word `start` of a tensor of `size` bytes."""
    places = np.arange(start, start + len(words), dtype=np.uint32)
    upper, lower = (_half(words, places, half, size) for half in _HALVES)
    return sum((int(high) << 32) + int(low) for high, low in zip(upper, lower, strict=True))


def _half(words: Words, places: Words, half: tuple[int, int, int], size: int) -> Words:
    """Return one half of each tile's hash."""
    factor, summand, turn = half
    placed = places * np.uint32(factor) + np.uint32(summand)
    placed ^= (places << np.uint32(turn)) | (places >> np.uint32(32 - turn))
    placed ^= words
    _finalise(placed)
    tiles = np.add.reduceat(placed, np.arange(0, len(words), TILE), dtype=np.uint32)
    tiles ^= np.uint32(size & 0xFFFFFFFF)
    _finalise(tiles)
    return tiles


def _finalise(values: Words) -> None:
    """Mix each value's bits, in place."""
    for factor, shift in ((_MIX[0], 16), (_MIX[1], 13)):
        values ^= values >> np.uint32(shift)
        values *= np.uint32(factor)
    values ^= values >> np.uint32(16)


def _finished(total: int) -> int:
    """Return SplitMix64's finish of a sum."""
    total &= _LARGEST
    for factor, shift in ((0xBF58476D1CE4E5B9, 30), (0x94D049BB133111EB, 27)):
        total = (total ^ total >> shift) * factor & _LARGEST
    return total ^ total >> 31
