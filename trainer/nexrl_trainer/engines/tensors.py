"""Published tensors, read in portions; and as what SGLang's `/update_weights_from_tensor` takes.

There they travel in the request, so that a server needs no file system in common with the trainer.
"""

import base64
import pickle
from collections.abc import Iterator
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from nexrl_trainer.engines.layout import PORTION_BYTES, Portion, portions


def read(portion: Portion) -> list[tuple[str, Tensor]]:
    """Return the tensors of a portion, by name."""
    found: list[tuple[str, Tensor]] = []
    for stored in portion:
        with safe_open(stored.file, "pt") as opened:
            found.append((stored.name, opened.get_tensor(stored.name)))
    return found


def buckets(folder: Path, *, most: int = PORTION_BYTES) -> Iterator[str]:
    """Yield the tensors of a folder in Hugging Face layout, pickled and as base64.

    SGLang reads no other encoding. Nothing that comes from a server is ever unpickled here.
    """
    for portion in portions(folder, most=most):
        yield base64.b64encode(pickle.dumps(read(portion))).decode()
