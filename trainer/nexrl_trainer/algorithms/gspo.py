"""GSPO: one ratio per sequence, so that one unlikely token cannot make the update of a long sequence."""

import torch
from torch import Tensor

from nexrl_trainer.algorithms.clipped import surrogate
from nexrl_trainer.algorithms.objective import Objective
from nexrl_trainer.algorithms.tokens import Tokens, anchor, sequence_means


def gspo(objective: Objective, tokens: Tokens) -> tuple[Tensor, Tensor]:
    """-min(s A, clip(s, 1 - low, 1 + high) A), s = exp(mean over the sequence of log r), at each of its tokens.

    GSPO, arXiv 2507.18071, equations 5 to 7. The gradient of s reaches every trained token of the sequence.
    """
    ratio = torch.exp(sequence_means(tokens.current - anchor(objective, tokens), tokens.sequence))
    return surrogate(ratio, tokens.advantages, objective.clip)
