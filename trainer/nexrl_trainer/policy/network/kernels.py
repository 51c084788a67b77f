"""Torch's fused attention kernels, with the log-sum-exps that `scaled_dot_product_attention` keeps to itself.

One block at a time: query [1, H, Q, D], key and value [1, H_kv, K, D], causal only where Q = K.
"""

import sys
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

ALIGNMENT = 32
"""The memory-efficient kernel reads its log-sum-exps in runs of so many rows."""

aten: Any = torch.ops.aten


class Kernel(Protocol):
    """Forward and backward of one block; both without dropout."""

    most_causal: int
    """Rows of a causal block above which two halves and a block between them are faster."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
        """Return the output [1, H, Q, D] and float32 log-sum-exps [1, H, Q]."""
        ...

    def backward(
        self, grad: Tensor, saved: tuple[Tensor, ...], causal: bool, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of query, key and value; `saved` is those, the output and the log-sum-exps."""
        ...


class CpuFlash:
    """Flash attention on a CPU: it computes causal blocks in strips, and most of what lies above the diagonal too."""

    most_causal = 256

    def forward(self, query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
        return aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, causal, scale=scale)  # noqa: SLF001

    def backward(
        self, grad: Tensor, saved: tuple[Tensor, ...], causal: bool, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        operation = aten._scaled_dot_product_flash_attention_for_cpu_backward  # noqa: SLF001
        return operation(grad, *saved, 0.0, causal, scale=scale)


class CudaEfficient:
    """Memory-efficient attention on a GPU: every dtype and head size, but no shared key heads."""

    most_causal = sys.maxsize

    def forward(self, query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
        repeat = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
        operation = aten._scaled_dot_product_efficient_attention  # noqa: SLF001
        output, sums, *_ = operation(query, key, value, None, True, 0.0, causal, scale=scale)
        return output, sums[:, :, : query.shape[2]]

    def backward(
        self, grad: Tensor, saved: tuple[Tensor, ...], causal: bool, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, output, sums = saved
        heads = key.shape[1]
        repeat = query.shape[1] // heads
        wide = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
        aligned = pad(sums, (0, -query.shape[2] % ALIGNMENT)).contiguous()
        unused = torch.zeros((), dtype=torch.int64)
        operation = aten._scaled_dot_product_efficient_attention_backward  # noqa: SLF001
        d_query, *narrow, _ = operation(
            grad,
            query,
            *wide,
            None,
            output,
            aligned,
            unused,
            unused,
            0.0,
            [True, True, True, False],
            causal,
            scale=scale,
        )
        d_key, d_value = (item.unflatten(1, (heads, repeat)).sum(2) for item in narrow)
        return d_query, d_key, d_value


def kernel_for(query: Tensor) -> Kernel:
    """Return the kernel for a tensor's device."""
    return CudaEfficient() if query.is_cuda else CpuFlash()
