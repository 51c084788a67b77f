"""The clipped policy loss: PPO, and what GRPO, DAPO and Dr. GRPO make of it by their advantage and normalisation."""

import torch
from torch import Tensor

from nexrl_trainer.algorithms.objective import Clip, Objective
from nexrl_trainer.algorithms.tokens import Tokens, anchor


def clipped(objective: Objective, tokens: Tokens) -> tuple[Tensor, Tensor]:
    """-min(r A, clip(r, 1 - low, 1 + high) A) per token; where A < 0, at most -dual A.

    PPO, arXiv 1707.06347, equation 7; the asymmetric bound is DAPO's, arXiv 2503.14476, section 3.1; the dual clip
    arXiv 1912.09729, equation 5.
    """
    ratio = torch.exp(tokens.current - anchor(objective, tokens))
    return surrogate(ratio, tokens.advantages, objective.clip)


def surrogate(ratio: Tensor, advantages: Tensor, clip: Clip) -> tuple[Tensor, Tensor]:
    """Return the clipped loss and 1 where the clip took the gradient away, for ratios of tokens or of sequences."""
    bounded = torch.clamp(ratio, 1 - clip.low, 1 + clip.high)
    loss = -torch.minimum(ratio * advantages, bounded * advantages)
    hit = (advantages > 0) & (ratio > 1 + clip.high) | (advantages < 0) & (ratio < 1 - clip.low)
    if clip.dual is not None:
        loss = torch.where(advantages < 0, torch.minimum(loss, -clip.dual * advantages), loss)
        hit = hit | (advantages < 0) & (ratio > clip.dual)
    return loss, hit.to(ratio.dtype)
