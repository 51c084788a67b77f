"""Read a checkpoint in Hugging Face layout, and check that it is one for this model before anything is changed.

`model.py` copies what `match` returns; nothing here touches the live model.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from msgspec import Struct
from torch import Tensor

from nexrl.errors import NexrlError
from nexrl_trainer.engines.adapters import AdapterError, is_adapter, whole

_SHOWN = 3


class CheckpointError(NexrlError):
    """A directory does not hold weights for this model; the live weights are as they were."""


class Weight(Struct, frozen=True):
    """One tensor of the model."""

    names: tuple[str, ...]
    """More than one where weights are tied."""
    tensor: Tensor


def weights_of(model: torch.nn.Module) -> list[Weight]:
    """Return every tensor of the model's state once, tied ones under all their names."""
    groups: dict[tuple[int, tuple[int, ...]], list[tuple[str, Tensor]]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        groups.setdefault((tensor.data_ptr(), tuple(tensor.shape)), []).append((name, tensor))
    return [Weight(tuple(name for name, _ in group), group[0][1]) for group in groups.values()]


def read_checkpoint(directory: Path) -> dict[str, Tensor]:
    """Return all tensors of `directory/*.safetensors`, or those of an adapter there with its model.

    Raises CheckpointError where they cannot be read. Reads whole files instead of mapping them, so that a publisher may
    overwrite them afterwards.
    """
    import safetensors.torch

    if is_adapter(directory):
        try:
            return whole(directory)
        except AdapterError as error:
            raise CheckpointError(str(error)) from error
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{directory}: no *.safetensors there; save the weights in Hugging Face layout")
    tensors: dict[str, Tensor] = {}
    for file in files:
        try:
            found = safetensors.torch.load(file.read_bytes())
        except (OSError, safetensors.SafetensorError) as error:
            raise CheckpointError(f"{file}: {error}") from error
        if twice := sorted(tensors.keys() & found.keys()):
            raise CheckpointError(f"{file}: {_some(twice)} stand in another file of the directory too")
        tensors |= found
    return tensors


def match(tensors: Mapping[str, Tensor], weights: Sequence[Weight]) -> list[Tensor]:
    """Return the tensor for each weight; raises CheckpointError where any is missing, too many or of another shape."""
    known = {name for weight in weights for name in weight.names}
    missing = [weight.names[0] for weight in weights if not tensors.keys() & set(weight.names)]
    unexpected = sorted(tensors.keys() - known)
    complaints = [f"missing {_some(missing)}"] if missing else []
    complaints += [f"unexpected {_some(unexpected)}"] if unexpected else []
    chosen: list[Tensor] = []
    for weight in weights:
        found = [(name, tensors[name]) for name in weight.names if name in tensors]
        for index, (name, tensor) in enumerate(found):
            if tensor.shape != weight.tensor.shape:
                complaints.append(f"{name} is {list(tensor.shape)}, the model's is {list(weight.tensor.shape)}")
            elif index and not torch.equal(tensor, found[0][1]):
                complaints.append(f"{name} differs from {found[0][0]}, to which the model ties it")
        chosen.extend(tensor for _, tensor in found[:1])
    if complaints:
        raise CheckpointError("the checkpoint does not fit the model: " + "; ".join(complaints[: 2 * _SHOWN]))
    return chosen


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
