"""CISPO: bound the importance weight, not the update: every token keeps its gradient."""

import torch
from torch import Tensor

from nexrl_trainer.algorithms.objective import Objective
from nexrl_trainer.algorithms.tokens import Tokens, anchor


def cispo(objective: Objective, tokens: Tokens) -> tuple[Tensor, Tensor]:
    """-sg(min(r, 1 + high)) A log p per token, sg: no gradient.

    CISPO, MiniMax-M1, arXiv 2506.13585, equations 4 and 5, without a lower bound as in their experiments.
    """
    ratio = torch.exp(tokens.current.detach() - anchor(objective, tokens))
    bound = 1 + objective.clip.high
    return -ratio.clamp(max=bound) * tokens.advantages * tokens.current, (ratio > bound).to(ratio.dtype)
