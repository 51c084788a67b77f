"""Losses on the log-probability itself, without a ratio: REINFORCE and cross-entropy."""

import torch
from torch import Tensor

from nexrl_trainer.algorithms.objective import Objective
from nexrl_trainer.algorithms.tokens import Tokens


def reinforce(_: Objective, tokens: Tokens) -> tuple[Tensor, Tensor]:
    """Return -A log p per token. Williams, "Simple statistical gradient-following algorithms", 1992."""
    return -tokens.advantages * tokens.current, torch.zeros_like(tokens.current)


def cross_entropy(_: Objective, tokens: Tokens) -> tuple[Tensor, Tensor]:
    """-log p per token, whatever its advantage: supervised fine-tuning, weighed by `Tokens.weights` alone."""
    return -tokens.current, torch.zeros_like(tokens.current)
