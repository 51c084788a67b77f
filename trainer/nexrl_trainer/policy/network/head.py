"""The last layer: logprobs and entropies of chosen tokens, without ever holding [tokens, vocabulary].

Computed a chunk of tokens at a time, forward and, all but the last chunk, again backward. Takes the place of a model's
`lm_head` and shares its weight, so that checkpoints and sharding see what they always saw.
"""

from typing import Any

import torch
from torch import Tensor, nn

from nexrl.errors import ConfigError

CHUNK = {"cpu": 1 << 23, "cuda": 1 << 26}
"""Logits held at a time, by device; those of the last chunk from the forward pass to the backward one."""
UNSUPPORTED = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""Settings of a Hugging Face config that change logits after the head."""


class LogprobHead(nn.Linear):
    """A linear layer over the vocabulary that answers with logprobs."""

    @classmethod
    def instead_of(cls, layer: nn.Linear) -> "LogprobHead":
        """Return the head with a layer's own parameters."""
        head = cls(1, 1, device="meta")
        head.in_features, head.out_features = layer.in_features, layer.out_features
        head.weight, head.bias = layer.weight, layer.bias
        return head

    def forward(self, hidden: Tensor, targets: Tensor, temperatures: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return logprobs of targets and entropies in nats, float32 [N], of softmax(logits / temperature).

        hidden [N, H], targets int64 [N], temperatures float32 [N].
        """
        kind = hidden.device.type
        if torch.is_autocast_enabled(kind):
            hidden = hidden.to(torch.get_autocast_dtype(kind))
        answer: Any = ChunkedLogprobs.apply(hidden, self.weight, self.bias, targets, temperatures)
        return answer


class ChunkedLogprobs(torch.autograd.Function):
    """log softmax(z)[target] and H(softmax(z)) with z = (W h + b) / T.

    dlogp/dz = onehot - p; dH/dz = -p (log p + H).
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, temperatures: Tensor
    ) -> tuple[Tensor, Tensor]:
        logprobs, entropies = (torch.empty(len(targets), device=hidden.device) for _ in range(2))
        cast = weight.to(hidden.dtype)
        logs: Tensor | None = None
        for part in _chunks(len(targets), weight):
            logs = _log_softmax(hidden[part], cast, bias, temperatures[part])
            logprobs[part] = logs.gather(1, targets[part, None])[:, 0]
            entropies[part] = logs.exp().mul_(logs).sum(1).neg_()
        ctx.save_for_backward(hidden, weight, bias, targets, temperatures, logs)
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, temperatures, last = ctx.saved_tensors
        d_logprobs, d_entropies = (grad / temperatures for grad in grads)
        cast = weight.to(hidden.dtype)
        d_hidden = torch.empty_like(hidden)
        d_weight = torch.zeros_like(weight) if weight.requires_grad else None
        d_bias = torch.zeros_like(bias) if bias is not None and bias.requires_grad else None
        bonus = bool(d_entropies.any())
        for part in _chunks(len(targets), weight):
            at_hand = part.stop == len(targets)
            logs = last if at_hand else _log_softmax(hidden[part], cast, bias, temperatures[part])
            slope = logs.exp()
            if bonus:
                entropies = -(slope * logs).sum(1, keepdim=True)
                factor = (logs + entropies).mul_(d_entropies[part, None]).add_(d_logprobs[part, None]).neg_()
                slope *= factor
            else:
                slope *= -d_logprobs[part, None]
            slope.scatter_add_(1, targets[part, None], d_logprobs[part, None])
            narrow = slope.to(hidden.dtype)
            d_hidden[part] = narrow @ cast
            if d_weight is not None:
                _add_product(d_weight, narrow, hidden[part])
            if d_bias is not None:
                d_bias += slope.sum(0)
        return d_hidden, d_weight, d_bias, None, None


def take_over(model: Any) -> LogprobHead:
    """Put the chunked head in the place of a Hugging Face model's own.

    Raises ConfigError for models whose logits are more than a linear layer.
    """
    for name in UNSUPPORTED:
        if getattr(model.config, name, None) not in {None, 1.0}:
            raise ConfigError(
                f"model.path: the model's {name}={getattr(model.config, name)} changes its logits, "
                "which the trainer's head does not; use another model"
            )
    layer = model.get_output_embeddings()
    if not isinstance(layer, nn.Linear):
        raise ConfigError(f"model.path: the model's output layer is {type(layer).__name__}, not a linear one")
    head = LogprobHead.instead_of(layer)
    model.set_output_embeddings(head)
    return head


def _log_softmax(hidden: Tensor, weight: Tensor, bias: Tensor | None, temperatures: Tensor) -> Tensor:
    """Return float32 [n, V]; one such tensor is all that is held beside its exponential."""
    logits = torch.nn.functional.linear(hidden, weight, None if bias is None else bias.to(hidden.dtype)).float()
    return torch.log_softmax(logits.div_(temperatures[:, None]), -1)


def _add_product(total: Tensor, slope: Tensor, hidden: Tensor) -> None:
    if total.dtype == slope.dtype:
        total.addmm_(slope.T, hidden)
    else:
        total += slope.T @ hidden


def _chunks(count: int, weight: Tensor) -> list[slice]:
    """Cut into as few as may be held at a time, about equal: the last one need not be computed again."""
    most = max(1, CHUNK.get(weight.device.type, CHUNK["cuda"]) // weight.shape[0])
    parts = -(-count // most)
    return [slice(count * part // parts, count * (part + 1) // parts) for part in range(parts)]
