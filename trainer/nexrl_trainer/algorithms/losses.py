"""Policy losses over trained tokens: pure functions of tensors.

All tensors are float [N], one entry per trained token; batching and masking happened before.
"""

import torch
from torch import Tensor

from nexrl_trainer.algorithms.clip import Clip


def clipped_policy_loss(current: Tensor, behaviour: Tensor, advantages: Tensor, clip: Clip) -> Tensor:
    """-min(r A, clip(r, 1 - low, 1 + high) A) per token, r = exp(current - behaviour).

    PPO, arXiv 1707.06347, equation 7, with the engine's logprobs as the behaviour policy; the asymmetric bound is
    DAPO's, arXiv 2503.14476, section 3.1. The caller sums and divides by the number of trained tokens in the whole
    batch (token-level normalisation, DAPO section 3.3).
    """
    ratio = torch.exp(current - behaviour)
    bounded = torch.clamp(ratio, 1 - clip.low, 1 + clip.high)
    return -torch.minimum(ratio * advantages, bounded * advantages)


def clipped_share(current: Tensor, behaviour: Tensor, advantages: Tensor, clip: Clip) -> Tensor:
    """1 where the clip took a token's gradient away, else 0."""
    ratio = torch.exp(current - behaviour)
    return ((advantages > 0) & (ratio > 1 + clip.high) | (advantages < 0) & (ratio < 1 - clip.low)).float()


def k3(current: Tensor, behaviour: Tensor) -> Tensor:
    """Estimate KL(behaviour || current) per token, never negative: r - 1 - log r.

    Schulman, "Approximating KL divergence", http://joschu.net/blog/kl-approx.html
    """
    log_ratio = current - behaviour
    return torch.exp(log_ratio) - 1 - log_ratio
