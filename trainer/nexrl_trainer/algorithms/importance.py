"""Importance weights between the engine and the trainer: the same weights, computed by other kernels or a step apart.

Truncated importance sampling (TIS): https://fengyao.notion.site/off-policy-rl; masked: IcePop, Ring-1T, arXiv
2510.18855; at sequence level: https://richardli.xyz/rl-collapse. Decoupled PPO is this weight times the clipped loss
against the proximal policy: arXiv 2110.00641, equation 7; AReaL, arXiv 2505.24298, equation 5.
"""

import torch
from torch import Tensor

from nexrl_trainer.algorithms.objective import Importance
from nexrl_trainer.algorithms.tokens import Tokens, sequence_sums


def importance_weights(importance: Importance | None, tokens: Tokens) -> Tensor:
    """Return proximal / behaviour, bounded, per token without gradient; ones without a correction. float [N].

    At sequence level every token carries the product over its sequence. The weights of a batch are not rescaled:
    what a mask leaves out still counts in the normalisation, which was fixed before.
    """
    if importance is None:
        return torch.ones_like(tokens.behaviour)
    log_ratio = tokens.proximal.detach() - tokens.behaviour
    if importance.level == "sequence":
        log_ratio = sequence_sums(log_ratio, tokens.sequence)
    ratio = torch.exp(log_ratio)
    if importance.correction == "truncate":
        return ratio.clamp(max=importance.high)
    return torch.where((ratio >= importance.low) & (ratio <= importance.high), ratio, 0.0)
