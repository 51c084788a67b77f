"""Causal attention over packed sequences, for any Hugging Face model: no pad token is ever computed.

The model sees one row of T tokens; `lengths` says where its sequences end. Registered with transformers' attention
interface, which also keeps it from building a mask of its own.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

NAME = "nexrl_packed"


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    lengths: list[int],
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend within each sequence. Shapes: query [1, H, T, D], key and value [1, H_kv, T, D] -> [1, T, H, D].

    Raises ValueError for a sequence longer than the model's sliding window, which is not implemented here.
    """
    del module, attention_mask
    if sliding_window is not None and max(lengths) > sliding_window:
        raise ValueError(f"a sequence of {max(lengths)} tokens exceeds the model's sliding window of {sliding_window}")
    grouped = query.shape[1] != key.shape[1]
    parts = [
        scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=grouped)
        for q, k, v in zip(query.split(lengths, 2), key.split(lengths, 2), value.split(lengths, 2), strict=True)
    ]
    return torch.cat(parts, dim=2).transpose(1, 2), None


AttentionInterface.register(NAME, packed_attention)
