"""Estimates of a KL divergence from the logprobs of sampled tokens.

Schulman, "Approximating KL divergence", http://joschu.net/blog/kl-approx.html. Which estimate belongs where:
arXiv 2510.01555: k1 in the reward and k2 in the loss have the gradient of the reverse KL; k3 in the loss has it only
near the reference, unless it is weighed by the ratio (DeepSeek-V3.2, arXiv 2512.02556, section 3.1).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from nexrl_trainer.algorithms.objective import Estimator, Objective
from nexrl_trainer.algorithms.tokens import Tokens


def k1(reference: Tensor, sampled: Tensor) -> Tensor:
    """Estimate KL(sampled || reference) per token: -log r, r = reference / sampled. Unbiased, of either sign."""
    return sampled - reference


def k2(reference: Tensor, sampled: Tensor) -> Tensor:
    """(log r)^2 / 2. Biased, never negative."""
    return (sampled - reference).square() / 2


def k3(reference: Tensor, sampled: Tensor) -> Tensor:
    """Estimate by r - 1 - log r. Unbiased, never negative."""
    log_ratio = reference - sampled
    return torch.exp(log_ratio) - 1 - log_ratio


ESTIMATORS: dict[Estimator, Callable[[Tensor, Tensor], Tensor]] = {"k1": k1, "k2": k2, "k3": k3}


def kl_to_reference(objective: Objective, tokens: Tokens) -> Tensor:
    """Return KL(current || reference) per token, with its gradient. float [N]; ValueError without a reference."""
    if tokens.reference is None:
        raise ValueError("objective.kl needs tokens.reference: forward the batch through the reference policy first")
    kl = ESTIMATORS[objective.estimator](tokens.reference, tokens.current)
    return torch.exp(tokens.current - tokens.behaviour) * kl if objective.unbiased_kl else kl
