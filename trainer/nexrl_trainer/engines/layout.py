"""What published tensors are and where they lie, in portions that can travel: from file headers, without torch."""

import math
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from msgspec import Struct
from safetensors import safe_open

from nexrl.errors import ServiceError

PORTION_BYTES = 256 * 2**20
"""Of tensors that travel together; a larger tensor goes alone."""
_TYPES = {"F64": ("float64", 8), "F32": ("float32", 4), "BF16": ("bfloat16", 2), "F16": ("float16", 2)}
"""Torch's names of the types in a file, and the bytes of one number."""


class Stored(Struct, frozen=True):
    """One tensor of a file."""

    name: str
    dtype: str
    """As torch calls it: `float32`."""
    shape: tuple[int, ...]
    bytes: int
    file: Path


Portion = tuple[Stored, ...]
"""Tensors that travel together, all of one type."""


def portions(folder: Path, *, most: int = PORTION_BYTES) -> list[Portion]:
    """Return the tensors of a folder in Hugging Face layout, each once, in portions of at most so many bytes.

    Raises ServiceError where there are none, or where one has a type that nobody publishes.
    """
    found = [portion for _, same in groupby(_stored(folder), lambda one: one.dtype) for portion in _cut(same, most)]
    if not found:
        raise ServiceError(f"{folder}: no tensors in it; was it published?")
    return found


def _cut(tensors: Iterator[Stored], most: int) -> Iterator[Portion]:
    waiting: list[Stored] = []
    size = 0
    for tensor in tensors:
        if waiting and size + tensor.bytes > most:
            yield tuple(waiting)
            waiting, size = [], 0
        waiting.append(tensor)
        size += tensor.bytes
    yield tuple(waiting)


def _stored(folder: Path) -> Iterator[Stored]:
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "numpy") as opened:
            for name in opened.keys():  # noqa: SIM118 - it is no mapping
                header = opened.get_slice(name)
                stored, shape = header.get_dtype(), tuple(header.get_shape())
                if stored not in _TYPES:
                    raise ServiceError(f"{file}: {name} is of type {stored}; weights are {', '.join(_TYPES)}")
                dtype, size = _TYPES[stored]
                yield Stored(name, dtype, shape, size * math.prod(shape), file)
