"""The loss of a micro-batch: one family per name, corrected, weighed and summed; and what the metrics need of it.

Pure functions of tensors. Batching, masking, temperature and normalisation happened before: `tokens.Tokens`.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from nexrl_trainer.algorithms.cispo import cispo
from nexrl_trainer.algorithms.clipped import clipped
from nexrl_trainer.algorithms.gspo import gspo
from nexrl_trainer.algorithms.importance import importance_weights
from nexrl_trainer.algorithms.kl import k3, kl_to_reference
from nexrl_trainer.algorithms.likelihood import cross_entropy, reinforce
from nexrl_trainer.algorithms.objective import LossName, Objective
from nexrl_trainer.algorithms.sapo import sapo
from nexrl_trainer.algorithms.spread import ratio_bins
from nexrl_trainer.algorithms.tokens import Tokens, anchor

Family = Callable[[Objective, Tokens], tuple[Tensor, Tensor]]
LOSSES: dict[LossName, Family] = {
    "ppo": clipped,
    "gspo": gspo,
    "cispo": cispo,
    "sapo": sapo,
    "reinforce": reinforce,
    "cross_entropy": cross_entropy,
}
"""By the name a recipe uses: (loss, bounded) per token, float [N] each; `bounded` is 1 where a bound took effect."""


def loss_of(objective: Objective, tokens: Tokens) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the scalar to back-propagate, and what metrics are made of, each a scalar without gradient.

        loss = sum_t weights_t (importance_t family_t + kl KL_t - entropy H_t)

    What metrics are made of are sums over tokens, unweighted, except `loss`, whose sum over micro-batches is the
    batch's, and names that end in `_max`, whose maximum is.
    """
    values, bounded = LOSSES[objective.loss](objective, tokens)
    importance = importance_weights(objective.importance, tokens)
    total = importance * values
    sums: dict[str, Tensor] = {}
    if objective.kl:
        kl = kl_to_reference(objective, tokens)
        total = total + objective.kl * kl
        sums["kl_reference"] = kl.detach().sum()
    if objective.entropy:
        if tokens.entropy is None:
            raise ValueError("objective.entropy needs tokens.entropy: have the backend compute it")
        total = total - objective.entropy * tokens.entropy
    loss = (tokens.weights * total).sum()
    return loss, {"loss": loss.detach(), **sums, **_measured(objective, tokens, bounded, importance)}


@torch.no_grad()
def _measured(objective: Objective, tokens: Tokens, bounded: Tensor, importance: Tensor) -> dict[str, Tensor]:
    current = tokens.current.detach()
    gap = (current - tokens.behaviour).abs()
    ratio = torch.exp(current - anchor(objective, tokens))
    sums = {
        "tokens": torch.ones_like(current).sum(),
        "ratio": ratio.sum(),
        "clipped": bounded.sum(),
        "clipped_positive": (bounded * (tokens.advantages > 0)).sum(),
        "clipped_negative": (bounded * (tokens.advantages < 0)).sum(),
        "importance": importance.sum(),
        "masked": (importance == 0).float().sum(),
        "kl_engine": k3(current, tokens.behaviour).sum(),
        "gap": gap.sum(),
        "gap_max": gap.max() if len(gap) else current.new_zeros(()),
        **ratio_bins(ratio),
    }
    if tokens.entropy is not None:
        sums["entropy"] = tokens.entropy.detach().sum()
    if tokens.teacher is not None:
        sums["kl_teacher"] = (current - tokens.teacher).sum()
    return sums
