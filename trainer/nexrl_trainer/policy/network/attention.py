"""Causal attention over a packed tree of sequences, for any Hugging Face model: no pad and no prefix is computed twice.

The model sees one row of T tokens; `layout` says which rows attend to which. Registered with transformers' attention
interface, which also keeps it from building a mask of its own. Every block runs a fused kernel without a mask; a row's
blocks are joined by their log-sum-exps, as in ring attention (arXiv 2310.01889, section 3).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from nexrl_trainer.policy.network.kernels import Kernel, kernel_for
from nexrl_trainer.policy.network.packing import Block, Layout, halved

NAME = "nexrl_packed"


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    layout: Layout,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend along the tree. Shapes: query [1, H, T, D], key and value [1, H_kv, T, D] -> [1, T, H, D].

    Raises ValueError for what is not implemented here: a sequence longer than the model's sliding window, scores that
    are capped (Gemma 2), attention sinks (gpt-oss).
    """
    del module, attention_mask
    if sliding_window is not None and layout.longest > sliding_window:
        raise ValueError(
            f"a sequence of {layout.longest} tokens exceeds the model's sliding window of {sliding_window}"
        )
    for name, given in (("softcap", softcap), ("s_aux", s_aux)):
        if given is not None:
            raise ValueError(f"the model's attention has {name}, which packed attention does not: use another model")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    # Under autocast, rotary embeddings leave queries and keys in float32.
    attended: Any = TreeAttention.apply(query.to(value.dtype), key.to(value.dtype), value, layout, scale)
    return attended.transpose(1, 2), None


class TreeAttention(torch.autograd.Function):
    """softmax(scale q k') v, each row over the rows that its blocks name."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float) -> Tensor:
        kernel = kernel_for(query)
        output = torch.empty_like(query)
        # Heads last in memory: what the CPU kernel's backward wants.
        sums = torch.empty(1, query.shape[2], query.shape[1], device=query.device).transpose(1, 2)
        blocks = halved(layout.blocks, kernel.most_causal)
        for block in blocks:
            rows, keys = slice(*block.rows), slice(*block.keys)
            part, part_sums = kernel.forward(query[:, :, rows], key[:, :, keys], value[:, :, keys], block.causal, scale)
            if block.causal:
                output[:, :, rows], sums[:, :, rows] = part, part_sums
            else:
                joined = torch.logaddexp(sums[:, :, rows], part_sums)
                kept, added = (sums[:, :, rows] - joined).exp()[..., None], (part_sums - joined).exp()[..., None]
                output[:, :, rows] = kept * output[:, :, rows] + added * part
                sums[:, :, rows] = joined
        ctx.save_for_backward(query, key, value, output, sums)
        ctx.settings = blocks, scale, kernel
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, output, sums = ctx.saved_tensors
        blocks, scale, kernel = ctx.settings
        return (*_backward(grads[0], (query, key, value, output, sums), blocks, scale, kernel), None, None)


def _backward(
    grad: Tensor, saved: tuple[Tensor, ...], blocks: Sequence[Block], scale: float, kernel: Kernel
) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value, output, sums = saved
    d_query, d_key, d_value = (torch.empty_like(item) for item in (query, key, value))
    for block in blocks:
        rows, keys = slice(*block.rows), slice(*block.keys)
        # With the joined output and sums, a block's backward is its exact share of the whole.
        parts = kernel.backward(
            grad[:, :, rows],
            (query[:, :, rows], key[:, :, keys], value[:, :, keys], output[:, :, rows], sums[:, :, rows]),
            block.causal,
            scale,
        )
        wholes = d_query[:, :, rows], d_key[:, :, keys], d_value[:, :, keys]
        for whole, part in zip(wholes, parts, strict=True):
            # Every row stands in one causal block, and that comes first.
            whole.copy_(part) if block.causal else whole.add_(part)
    return d_query, d_key, d_value


AttentionInterface.register(NAME, packed_attention)
