"""What a loss needs to know that is not a tensor. Settings alone, so that the driver need not load torch.

`loss.loss_of(objective, tokens)` computes it from `tokens.Tokens`; which settings go together is checked by the recipe.
"""

from typing import Literal

from msgspec import Struct

LossName = Literal["ppo", "gspo", "cispo", "sapo", "reinforce", "cross_entropy"]
Estimator = Literal["k1", "k2", "k3"]


class Clip(Struct, frozen=True, kw_only=True):
    """How far the ratio may move before a token stops pushing: [1 - low, 1 + high]."""

    low: float = 0.2
    high: float = 0.2
    dual: float | None = None
    """Bound c > 1 on the ratio where the advantage is negative (dual clip); None leaves it open."""


class Temper(Struct, frozen=True, kw_only=True):
    """SAPO's temperatures: how fast the gate closes as the ratio leaves 1."""

    positive: float = 1.0
    negative: float = 1.05


class Importance(Struct, frozen=True, kw_only=True):
    """Correct for the step from the engine's policy (behaviour) to the trainer's own before the update (proximal)."""

    correction: Literal["truncate", "mask"]
    """`truncate` weighs by min(ratio, high); `mask` weighs by the ratio, and by 0 outside [low, high]."""
    level: Literal["token", "sequence"] = "token"
    low: float = 0.0
    high: float = 2.0


class Objective(Struct, frozen=True, kw_only=True):
    """Which loss, how it is bounded, and what is added to it."""

    loss: LossName = "ppo"
    ratio_to: Literal["behaviour", "proximal"] = "behaviour"
    """Whose probability stands under the ratio: the engine's, or the trainer's own before the step's first update."""
    clip: Clip = Clip()
    temper: Temper = Temper()
    kl: float = 0.0
    """Coefficient of the KL to the reference policy; not 0 needs `Tokens.reference`."""
    estimator: Estimator = "k3"
    unbiased_kl: bool = False
    """Weigh the KL by current / behaviour, so that its gradient is unbiased off policy and with k3."""
    entropy: float = 0.0
    """Coefficient of the entropy bonus; not 0 needs `Tokens.entropy` with its gradient."""
    importance: Importance | None = None
