"""Attention over KV slots, as transformers' AttentionInterface wants it.

Registered under a name without a mask function: transformers then builds no mask, and the layout in the keyword
argument `slot_step` says what each token attends to.
"""

from typing import Any

import torch
from msgspec import Struct
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from nexrl_trainer.engines.embedded.batch import Batch, Run
from nexrl_trainer.engines.embedded.cache import SlotCache

NAME = "nexrl_slots"
_CHANGES_SCORES = ("softcap", "s_aux", "position_bias")


class UnsupportedAttentionError(Exception):
    """The model asks for more than plain causal attention."""


class SlotStep(Struct, frozen=True):
    """What one forward pass works on."""

    batch: Batch
    cache: SlotCache


def register() -> None:
    """Make the attention known to transformers."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, slot_attention)


def slot_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001 - transformers passes it; the layout replaces it
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Return [1, tokens, heads, head size] for query [1, heads, tokens, head size]."""
    step: SlotStep = kwargs["slot_step"]
    batch = step.batch
    _refuse_what_changes_scores(kwargs, step.cache.max_length)
    layer = module.layer_idx
    if not isinstance(layer, int):
        raise UnsupportedAttentionError(f"layer_idx is {layer!r}, not a number")
    keys, values = step.cache.write(layer, batch.slots, batch.positions[0], key, value)
    output = query.new_empty(1, query.shape[2], query.shape[1], values.shape[3])
    for run in batch.singles:
        output[0, run.first : run.last] = _singles(run, query, keys, values, scaling)
    for run in batch.chunks:
        output[0, run.first : run.last] = _chunk(run, query, keys, values, scaling)
    return output, None


def _singles(run: Run, query: Tensor, keys: Tensor, values: Tensor, scaling: float | None) -> Tensor:
    """Attend one token per slot. Query heads that share a key head stand in the place of query positions."""
    count = run.last - run.first
    rows = query[0, :, run.first : run.last].transpose(0, 1)
    out = scaled_dot_product_attention(
        rows.reshape(count, keys.shape[1], -1, rows.shape[2]),
        keys[run.low : run.high, :, : run.length],
        values[run.low : run.high, :, : run.length],
        attn_mask=run.mask,
        scale=scaling,
    )
    return out.reshape(count, rows.shape[1], -1)


def _chunk(run: Run, query: Tensor, keys: Tensor, values: Tensor, scaling: float | None) -> Tensor:
    out = scaled_dot_product_attention(
        query[:, :, run.first : run.last],
        keys[run.low : run.high, :, : run.length],
        values[run.low : run.high, :, : run.length],
        attn_mask=run.mask,
        is_causal=run.mask is None,
        scale=scaling,
        enable_gqa=query.shape[1] != keys.shape[1],
    )
    return out[0].transpose(0, 1)


def _refuse_what_changes_scores(kwargs: dict[str, Any], max_length: int) -> None:
    for name in _CHANGES_SCORES:
        if kwargs.get(name) is not None:
            raise UnsupportedAttentionError(f"its attention uses {name}")
    window = kwargs.get("sliding_window")
    if window is not None and window < max_length:
        raise UnsupportedAttentionError(f"its attention slides over {window} tokens: use --max-length {window}")
