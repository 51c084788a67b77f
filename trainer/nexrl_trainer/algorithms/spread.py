"""How ratios spread, as counts that add up over micro-batches and ranks, and the quantiles read off them.

Importable without torch: the driver has only the counts.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

EDGES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
BOUNDS = (*(-edge for edge in reversed(EDGES)), 0.0, *EDGES)
"""Of log ratios; the first bin lies below the first bound, the last one above the last."""
NAMES = tuple(f"ratio_bin_{index:02}" for index in range(len(BOUNDS) + 1))
QUANTILES = {"ratio_p01": 0.01, "ratio_p50": 0.5, "ratio_p99": 0.99}


def ratio_bins(ratio: "Tensor") -> "dict[str, Tensor]":
    """Return how many ratios lie in each bin, as scalars of the ratio's type."""
    import torch

    counts = torch.bucketize(ratio.log(), ratio.new_tensor(BOUNDS)).bincount(minlength=len(NAMES)).to(ratio.dtype)
    return dict(zip(NAMES, counts.unbind(), strict=True))


def ratio_quantiles(sums: Mapping[str, float]) -> dict[str, float]:
    """Return the ratio's 1 %, 50 % and 99 % quantile, interpolated within a bin; outermost bins give their bound."""
    counts = [sums[name] for name in NAMES]
    return {name: math.exp(_quantile(counts, share)) for name, share in QUANTILES.items()}


def _quantile(counts: list[float], share: float) -> float:
    wanted = share * sum(counts)
    for index, count in enumerate(counts):
        if count and wanted <= count:
            low, high = BOUNDS[max(index - 1, 0)], BOUNDS[min(index, len(BOUNDS) - 1)]
            return low + (high - low) * wanted / count
        wanted -= count
    return BOUNDS[-1]
