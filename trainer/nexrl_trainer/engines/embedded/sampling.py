"""Draw one token per row of logits, and its logprob.

Pure: randomness comes in as uniform numbers, so that a request with a seed of its own draws the same tokens in any
batch. Logprobs are those of `log_softmax(logits / T)`, not renormalised after `top_p`, `top_k` or `min_p`.
"""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from nexrl_trainer.engines.embedded.wire import SamplingParams


def sample(logits: Tensor, params: Sequence[SamplingParams], uniforms: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Return token ids [rows] and logprobs [rows] for logits [rows, vocabulary]; `uniforms` lie in [0, 1)."""
    divisors = torch.tensor([p.divisor for p in params], device=logits.device)
    logprobs = torch.log_softmax(logits.float() / divisors[:, None], dim=-1)
    greedy = [row for row, p in enumerate(params) if p.greedy]
    restricted = [row for row, p in enumerate(params) if p.restricted and not p.greedy]
    # Of the logits: rounding makes ties among logprobs.
    ids = logits.argmax(dim=-1) if greedy else torch.zeros(len(params), dtype=torch.long, device=logits.device)
    if len(greedy) < len(params):
        draws = torch.tensor(uniforms, dtype=torch.float64, device=logits.device)
        drawn = _draw(logprobs.exp(), draws)
        if restricted:
            drawn[restricted] = _draw_restricted(
                logprobs[restricted].exp(), [params[row] for row in restricted], draws[restricted]
            )
        is_greedy = torch.tensor([p.greedy for p in params], device=logits.device)
        ids = torch.where(is_greedy, ids, drawn)
    return ids, logprobs.gather(1, ids[:, None])[:, 0]


def bar(logits: Tensor, barred: Sequence[Collection[int]]) -> Tensor:
    """Return logits [rows, vocabulary] under which no row draws one of its `barred` ids; logprobs are of the rest."""
    rows = [row for row, ids in enumerate(barred) for _ in ids]
    if not rows:
        return logits
    return logits.index_put(
        (
            torch.tensor(rows, device=logits.device),
            torch.tensor([i for ids in barred for i in ids], device=logits.device),
        ),
        torch.tensor(-torch.inf, dtype=logits.dtype, device=logits.device),
    )


def _draw(weights: Tensor, uniforms: Tensor) -> Tensor:
    """Return for each row the first index whose cumulated weight exceeds uniform x total; never one of weight 0."""
    cumulated = weights.cumsum(dim=-1, dtype=torch.float64)
    thresholds = (uniforms * cumulated[:, -1])[:, None]
    return torch.searchsorted(cumulated, thresholds, right=True)[:, 0].clamp_max(weights.shape[-1] - 1)


def _draw_restricted(probabilities: Tensor, params: Sequence[SamplingParams], uniforms: Tensor) -> Tensor:
    """Draw among the tokens that all of top_k, top_p and min_p keep; each judges the unrestricted distribution."""
    ordered, ids = probabilities.sort(dim=-1, descending=True)
    device = ordered.device
    vocabulary = ordered.shape[-1]
    top_k = torch.tensor([p.top_k if p.top_k > 0 else vocabulary for p in params], device=device)
    # float64: at top_p = 1 rounding must not cut the tail off.
    top_p = torch.tensor([p.top_p if p.top_p < 1 else 2.0 for p in params], dtype=torch.float64, device=device)
    min_p = torch.tensor([p.min_p for p in params], device=device)
    before = ordered.cumsum(dim=-1, dtype=torch.float64) - ordered
    kept = torch.arange(vocabulary, device=device) < top_k[:, None]
    kept &= before <= top_p[:, None]
    kept &= ordered >= ordered[:, :1] * min_p[:, None]
    kept[:, 0] = True
    places = _draw(ordered * kept, uniforms)
    last_kept = kept.sum(dim=-1) - 1
    return ids.gather(1, torch.minimum(places, last_kept)[:, None])[:, 0]
