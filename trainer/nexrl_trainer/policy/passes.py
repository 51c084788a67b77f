"""A share of a batch through the model, pass by pass: what backends have in common.

How sequences are dealt to passes is `packing.plan`'s; what the gradients then meet is the backend's.
"""

from collections.abc import Callable

import torch
from msgspec import structs
from torch import Tensor, nn

from nexrl.records import Float32s
from nexrl_trainer.algorithms.loss import loss_of
from nexrl_trainer.algorithms.objective import Objective
from nexrl_trainer.batches.datums import Datum
from nexrl_trainer.policy.network.tensors import Pack, in_place, pack
from nexrl_trainer.policy.service import Sums, merged


class Passes:
    """Runs a model, called with a `Pack`, on one device."""

    def __init__(self, model: nn.Module, device: torch.device, autocast: torch.dtype | None) -> None:
        self._model = model
        self._device = device
        self._autocast = autocast

    def forward(self, datums: list[Datum], planned: list[list[int]]) -> dict[int, Float32s]:
        """Return logprobs in place, by index of the datum."""
        found: dict[int, Float32s] = {}
        with torch.no_grad():
            for indices in planned:
                part = [datums[index] for index in indices] or [_idle(datums[0])]
                logprobs, _ = self._call(pack(part, self._device))
                found |= dict(zip(indices, in_place(part, logprobs), strict=False))
        return found

    def forward_backward(
        self, datums: list[Datum], planned: list[list[int]], objective: Objective, backward: Callable[[Tensor], object]
    ) -> Sums:
        """Call `backward` with each pass's loss; they add up to the share's."""
        parts: list[Sums] = []
        for indices in planned:
            part = [datums[index] for index in indices] or [_idle(datums[0])]
            packed = pack(part, self._device)
            loss, sums = loss_of(objective, packed.tokens(*self._call(packed)))
            backward(loss)
            parts.append({name: value.item() for name, value in sums.items()})
        return merged(parts)

    def _call(self, packed: Pack) -> tuple[Tensor, Tensor]:
        with torch.autocast(self._device.type, dtype=self._autocast, enabled=self._autocast is not None):
            return self._model(packed)


def _idle(datum: Datum) -> Datum:
    """Return a datum of one token, none trained: a pass for a rank that has nothing to do while others have."""
    arrays = {name: getattr(datum, name) for name in datum.__struct_fields__ if name != "session"}
    cut = {name: None if array is None else type(array)(array[:1]) for name, array in arrays.items()}
    return structs.replace(datum, **cut | {"loss_mask": type(datum.loss_mask)([0])})
