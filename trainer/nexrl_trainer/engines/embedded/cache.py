"""Keys and values of every slot and layer: [slots, kv heads, positions, head size] each, longer when needed.

What a slot holds is the scheduler's knowledge; here are the rows.
"""

import torch
from torch import Tensor

_FIRST_CAPACITY = 256


class SlotCache:
    """One pair of tensors per layer, made at a layer's first write."""

    def __init__(self, slots: int, max_length: int) -> None:
        self.slots = slots
        self.max_length = max_length
        self._capacity = min(_FIRST_CAPACITY, max_length)
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def layers(self) -> int:
        """How many layers have written."""
        return len(self._layers)

    def reserve(self, length: int) -> None:
        """Make room for requests of `length` tokens, by doubling."""
        if length <= self._capacity:
            return
        while self._capacity < length:
            self._capacity = min(2 * self._capacity, self.max_length)
        self._layers = {layer: (self._grown(k), self._grown(v)) for layer, (k, v) in self._layers.items()}

    def write(self, layer: int, slots: Tensor, positions: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store new rows (key and value [1, heads, tokens, size]) and return the layer's whole tensors."""
        if layer not in self._layers:
            self._layers[layer] = (self._empty(key), self._empty(value))
        keys, values = self._layers[layer]
        keys[slots, :, positions] = key[0].transpose(0, 1)
        values[slots, :, positions] = value[0].transpose(0, 1)
        return keys, values

    def copy(self, source: int, target: int, length: int) -> None:
        """Give `target` the first `length` rows of `source`."""
        for tensors in self._layers.values():
            for tensor in tensors:
                tensor[target, :, :length] = tensor[source, :, :length]

    def clear(self, slot: int) -> None:
        """Zero a slot whose rows may hold NaN: masked positions are multiplied by zero, and 0 x NaN is NaN."""
        for tensors in self._layers.values():
            for tensor in tensors:
                tensor[slot] = 0

    def _empty(self, rows: Tensor) -> Tensor:
        shape = (self.slots, rows.shape[1], self._capacity, rows.shape[3])
        return torch.zeros(shape, dtype=rows.dtype, device=rows.device)

    def _grown(self, old: Tensor) -> Tensor:
        new = torch.zeros((*old.shape[:2], self._capacity, old.shape[3]), dtype=old.dtype, device=old.device)
        new[:, :, : old.shape[2]] = old
        return new
