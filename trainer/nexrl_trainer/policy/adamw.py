"""An AdamW step with a bound on the gradient's norm (arXiv 1711.05101), for backends that step by torch."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from nexrl_trainer.policy.service import Optimizer, Step


def configure(groups: Iterable[dict[str, Any]], optimizer: Optimizer) -> None:
    """Set what a step is to use, in an optimizer's parameter groups."""
    for group in groups:
        group["lr"] = optimizer.learning_rate
        group["betas"] = optimizer.betas
        group["weight_decay"] = optimizer.weight_decay


def step(adamw: torch.optim.AdamW, parameters: Iterable[nn.Parameter], optimizer: Optimizer) -> Step:
    """Apply and clear the gradients; raises FloatingPointError where their norm is no finite number."""
    configure(adamw.param_groups, optimizer)
    total = nn.utils.clip_grad_norm_(parameters, optimizer.grad_clip)
    # Of parameters that ranks share out, each rank has a part.
    norm = checked((total.full_tensor() if isinstance(total, DTensor) else total).item(), adamw)
    adamw.step()
    adamw.zero_grad(set_to_none=True)
    return Step(grad_norm=norm)


def checked(norm: float, adamw: torch.optim.AdamW | None = None) -> float:
    """Return a gradient norm that is a number; else clear the gradients and raise FloatingPointError."""
    if not math.isfinite(norm):
        if adamw:
            adamw.zero_grad(set_to_none=True)
        raise FloatingPointError(f"gradient norm is {norm}; the weights were left as they are")
    return norm
