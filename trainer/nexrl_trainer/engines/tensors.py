"""Published weights as what SGLang's `/update_weights_from_tensor` takes, some tensors at a time.

They travel in the request, so that a server needs no file system in common with the trainer.
"""

import base64
import pickle
from collections.abc import Iterator
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

BUCKET_BYTES = 256 * 2**20
"""Of tensors in one request; a larger tensor goes alone."""


def buckets(folder: Path, *, most: int = BUCKET_BYTES) -> Iterator[str]:
    """Yield the tensors of a folder in Hugging Face layout, pickled and as base64.

    SGLang reads no other encoding. Nothing that comes from a server is ever unpickled here.
    """
    waiting: list[tuple[str, Tensor]] = []
    size = 0
    for name, tensor in _tensors(folder):
        if waiting and size + tensor.nbytes > most:
            yield _written(waiting)
            waiting, size = [], 0
        waiting.append((name, tensor))
        size += tensor.nbytes
    yield _written(waiting)


def _tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - it is no mapping
                yield name, opened.get_tensor(name)


def _written(tensors: list[tuple[str, Tensor]]) -> str:
    return base64.b64encode(pickle.dumps(tensors)).decode()
