"""What a loss is computed from: the trained tokens of a micro-batch, one entry each, and how sequences share them."""

from typing import NamedTuple

import torch
from torch import Tensor

from nexrl_trainer.algorithms.objective import Objective


class Tokens(NamedTuple):
    """The trained tokens of one micro-batch, whole sequences of them: float [N] each, `sequence` long [N]."""

    current: Tensor
    """Logprobs under the weights that are trained, with gradient."""
    behaviour: Tensor
    """The engine's logprobs, under the weights that sampled."""
    proximal: Tensor
    """The trainer's logprobs before the step's first update; `current.detach()` where nothing recomputed them."""
    reference: Tensor | None
    """Logprobs under the reference policy, which stays as it is."""
    teacher: Tensor | None
    """Logprobs under the teacher that is distilled."""
    entropy: Tensor | None
    """Nats, of the distribution sampled from; with gradient where the objective has an entropy bonus."""
    advantages: Tensor
    weights: Tensor
    """What a token counts; they carry the whole normalisation, so that the loss is a plain sum."""
    sequence: Tensor
    """Index of the token's sequence in the micro-batch, from 0."""


def anchor(objective: Objective, tokens: Tokens) -> Tensor:
    """Return the logprobs that stand under the ratio, without gradient. float [N]."""
    return tokens.proximal.detach() if objective.ratio_to == "proximal" else tokens.behaviour


def sequence_sums(values: Tensor, sequence: Tensor) -> Tensor:
    """Return the sum over each token's sequence, at each token. float [N].

    Example: values 1 3 5, sequence 0 0 1 -> 4 4 5
    """
    count = int(sequence.max()) + 1 if len(sequence) else 0
    return values.new_zeros(count).index_add(0, sequence, values)[sequence]


def sequence_means(values: Tensor, sequence: Tensor) -> Tensor:
    """Return the mean over each token's sequence, at each token. float [N].

    Example: values 1 3 5, sequence 0 0 1 -> 2 2 5
    """
    return sequence_sums(values, sequence) / sequence_sums(torch.ones_like(values), sequence)
