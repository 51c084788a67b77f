"""From datums to the tensors of one pass: the packed row that the model sees, and the trained tokens a loss sees."""

import numpy as np
import torch
from msgspec import Struct
from torch import Tensor

from nexrl.records import Float32s
from nexrl_trainer.algorithms.tokens import Tokens
from nexrl_trainer.batches.datums import Datum
from nexrl_trainer.policy.network.packing import Layout, lay_out


class Pack(Struct, frozen=True, kw_only=True):
    """Sequences laid out as one row of T tokens, and their N trained tokens in the order of the datums."""

    ids: Tensor
    """int64 [1, T]"""
    positions: Tensor
    """int64 [1, T], restarting with each sequence"""
    layout: Layout
    predicting: Tensor
    """int64 [N], row of the token before each trained one: its output predicts the trained token"""
    targets: Tensor
    """int64 [N]"""
    temperatures: Tensor
    """float32 [N]"""
    sequence: Tensor
    """int64 [N], which datum a trained token belongs to"""
    columns: dict[str, Tensor | None]
    """float32 [N] by field of `Tokens`; None where no datum has it"""

    def tokens(self, current: Tensor, entropy: Tensor) -> Tokens:
        """Return what a loss is computed from."""
        columns = dict(self.columns)
        proximal = columns.pop("proximal")
        proximal = current.detach() if proximal is None else proximal
        return Tokens(current=current, entropy=entropy, proximal=proximal, sequence=self.sequence, **columns)  # pyright: ignore[reportArgumentType]


COLUMNS = {"behaviour": "logprobs"} | {
    name: name for name in ("advantages", "weights", "proximal", "reference", "teacher")
}
"""The datum's field behind each column."""


def pack(datums: list[Datum], device: torch.device) -> Pack:
    """Lay datums out, beginnings they share once.

    Example, nothing shared: ids 5 6 7 with mask 0 1 1 and ids 8 9 with mask 0 1 -> positions 0 1 2 0 1, predicting
    0 1 3, sequence 0 0 1.
    """
    layout = lay_out([datum.ids for datum in datums])
    ids, positions = (torch.empty(layout.size, dtype=torch.int64) for _ in range(2))
    predicting: list[Tensor] = []
    trained = [_trained(datum) for datum in datums]
    for datum, pieces, chosen in zip(datums, layout.pieces, trained, strict=True):
        rows = torch.cat([torch.arange(row, row + end - start) for row, start, end in pieces])
        ids[rows] = torch.from_numpy(np.frombuffer(datum.ids, np.int32).astype(np.int64))
        positions[rows] = torch.arange(len(datum.ids))
        predicting.append(rows[chosen - 1])
    targets = [np.frombuffer(datum.ids, np.int32)[chosen] for datum, chosen in zip(datums, trained, strict=True)]
    owners = [np.full(len(chosen), index) for index, chosen in enumerate(trained)]
    temperatures = _column(datums, trained, "temperatures")
    assert temperatures is not None
    columns = {name: _column(datums, trained, field) for name, field in COLUMNS.items()}
    return Pack(
        ids=ids[None].to(device),
        positions=positions[None].to(device),
        layout=layout,
        predicting=torch.cat(predicting).to(device),
        targets=torch.from_numpy(np.concatenate(targets).astype(np.int64)).to(device),
        temperatures=temperatures.to(device),
        sequence=torch.from_numpy(np.concatenate(owners).astype(np.int64)).to(device),
        columns={name: None if values is None else values.to(device) for name, values in columns.items()},
    )


def in_place(datums: list[Datum], values: Tensor) -> list[Float32s]:
    """Put values of trained tokens, float [N], where the tokens stand: float32 [T] per datum, 0 elsewhere."""
    flat = values.float().cpu().numpy()
    placed: list[Float32s] = []
    for datum in datums:
        chosen = _trained(datum)
        row = np.zeros(len(datum.ids), np.float32)
        row[chosen], flat = flat[: len(chosen)], flat[len(chosen) :]
        placed.append(Float32s(row.tolist()))
    return placed


def _trained(datum: Datum) -> np.ndarray:
    """Return where the mask is 1; raises ValueError where that is the first token, which nothing predicts."""
    chosen = np.flatnonzero(np.frombuffer(datum.loss_mask, np.int32))
    if len(chosen) and chosen[0] == 0:
        raise ValueError(f"sequence of {datum.session}: the first token cannot be trained, nothing predicts it")
    return chosen


def _column(datums: list[Datum], trained: list[np.ndarray], field: str) -> Tensor | None:
    arrays = [getattr(datum, field) for datum in datums]
    if any(array is None for array in arrays):
        if any(array is not None for array in arrays):
            raise ValueError(f"datums of one batch have `{field}` in part: give it to all or to none")
        return None
    parts = [np.frombuffer(array, np.float32)[chosen] for array, chosen in zip(arrays, trained, strict=True)]
    return torch.from_numpy(np.concatenate(parts))
