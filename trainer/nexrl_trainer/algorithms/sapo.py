"""SAPO: a gate that closes smoothly as the ratio leaves 1, in place of a clip."""

import torch
from torch import Tensor

from nexrl_trainer.algorithms.objective import Objective
from nexrl_trainer.algorithms.tokens import Tokens, anchor


def sapo(objective: Objective, tokens: Tokens) -> tuple[Tensor, Tensor]:
    """-(4 / tau) sigmoid(tau (r - 1)) A per token, tau by the sign of A. Nothing is ever cut off.

    SAPO, arXiv 2511.20347, section 3.
    """
    ratio = torch.exp(tokens.current - anchor(objective, tokens))
    temper = objective.temper
    tau = torch.where(tokens.advantages > 0, temper.positive, temper.negative).to(ratio.dtype)
    return -4 / tau * torch.sigmoid(tau * (ratio - 1)) * tokens.advantages, torch.zeros_like(ratio)
