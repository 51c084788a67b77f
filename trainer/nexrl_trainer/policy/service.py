"""The train service: the small protocol every training backend speaks.

Batches of datums in, awaitables out. Where a backend runs (a Ray actor, this process, somebody else's cluster) is its
own business; the loop only awaits.
"""

from pathlib import Path
from typing import Protocol

from msgspec import Struct

from nexrl.records import Float32s
from nexrl_trainer.algorithms.clip import Clip
from nexrl_trainer.policy.batches import Datum


class Optimizer(Struct, frozen=True, kw_only=True):
    """AdamW (arXiv 1711.05101) with a bound on the gradient's norm."""

    learning_rate: float
    betas: tuple[float, float]
    weight_decay: float
    grad_clip: float


class TokenSums(Struct, frozen=True, kw_only=True):
    """Sums over the trained tokens of one forward_backward; divide by `tokens` for means."""

    tokens: int
    loss: float
    """Already divided by the normaliser it was called with: the batch's loss is the sum of these."""
    ratio: float
    clipped: float
    entropy: float
    """In nats, of the distribution sampled from."""
    kl_engine: float
    """k3 estimate of KL(engine || policy)."""
    gap: float
    """Sum of |trainer logprob - engine logprob|."""
    gap_max: float
    """Largest |trainer logprob - engine logprob|."""


class Step(Struct, frozen=True, kw_only=True):
    """What one optimizer step did."""

    grad_norm: float
    """Before clipping."""


class TrainService(Protocol):
    """What the loop asks of a backend."""

    async def forward(self, datums: list[Datum]) -> list[Float32s]:
        """Return logprobs float32 [T] per datum under the current weights, 0 where the mask is 0."""
        ...

    async def forward_backward(self, datums: list[Datum], clip: Clip, normaliser: int) -> TokenSums:
        """Add the gradient of the clipped policy loss, summed over tokens and divided by `normaliser`."""
        ...

    async def optim_step(self, optimizer: Optimizer) -> Step:
        """Apply and clear the gradients."""
        ...

    async def save(self, folder: Path) -> None:
        """Write weights (Hugging Face layout), optimizer and RNG state into an existing folder."""
        ...

    async def load(self, folder: Path) -> None:
        """Restore what `save` wrote."""
        ...

    async def publish_weights(self, folder: Path) -> None:
        """Write the weights alone, in Hugging Face layout, where engines can read them."""
        ...
