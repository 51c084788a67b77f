"""The train service: the small protocol every training backend speaks.

Batches of datums in, awaitables out. Where a backend runs (a Ray actor, this process, somebody else's cluster) is its
own business; the loop only awaits. A backend is one file; `tests/trainer/test_backend_contract.py` is what it has to
pass.
"""

from collections.abc import Awaitable, Iterable
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from nexrl.records import Float32s
from nexrl_trainer.algorithms.objective import Objective
from nexrl_trainer.batches.datums import Datum

Sums = dict[str, float]
"""What `algorithms.loss.loss_of` measures, over a whole batch: sums over trained tokens, and maxima (`_max`)."""


class Optimizer(Struct, frozen=True, kw_only=True):
    """AdamW (arXiv 1711.05101) with a bound on the gradient's norm."""

    learning_rate: float
    betas: tuple[float, float]
    weight_decay: float
    grad_clip: float


class Step(Struct, frozen=True, kw_only=True):
    """What one optimizer step did."""

    grad_norm: float
    """Before clipping."""


class Capabilities(Struct, frozen=True, kw_only=True):
    """What a backend is, for whoever plans with it or shows it."""

    backend: str
    ranks: int
    """Processes that share a batch."""
    parameters: int
    trained_parameters: int
    """Those the optimizer changes: fewer than all with LoRA."""
    shared_prefixes: bool
    """Beginnings that sequences of a batch share are computed once."""


class Learns(Protocol):
    """What the loop asks of a backend, or of several as one (`routed.py`)."""

    async def forward(self, datums: list[Datum]) -> list[Float32s]:
        """Return logprobs float32 [T] per datum under the current weights, 0 where the mask is 0."""
        ...

    async def forward_backward(self, datums: list[Datum], objective: Objective) -> Sums:
        """Add the gradient of the objective's loss: a sum over tokens that the datums' weights have normalised."""
        ...

    async def optim_step(self, optimizer: Optimizer) -> Step:
        """Apply and clear the gradients.

        Raises FloatingPointError (ServiceError from a placed backend) where their norm is no finite number; the weights
        are then as they were.
        """
        ...

    def save(self, folder: Path) -> Awaitable[None]:
        """Write weights (Hugging Face layout), optimizer and RNG state into an existing folder.

        The state is that of the moment of the call: what is called next need not wait for the writing, only for a copy
        of the state. What is returned is done once everything is written; it runs, awaited or not.
        """
        ...

    async def load(self, folder: Path) -> None:
        """Restore what `save` wrote, on whatever backend and number of ranks."""
        ...


class TrainService(Learns, Protocol):
    """A backend: one model that learns."""

    async def capabilities(self) -> Capabilities: ...

    async def publish_weights(self, folder: Path) -> None:
        """Write the weights alone, in Hugging Face layout, where engines can read them."""
        ...

    async def publish_adapter(self, folder: Path) -> None:
        """Write the adapter alone, in peft's layout, where engines can read it; for backends that train one."""
        ...


def merged(parts: Iterable[Sums]) -> Sums:
    """Put the sums of parts of a batch together."""
    total: Sums = {}
    for part in parts:
        for name, value in part.items():
            join = max if name.endswith("_max") else float.__add__
            total[name] = join(total[name], value) if name in total else value
    return total
