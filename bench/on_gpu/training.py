"""A training step on packed rows: tokens a second, and the share of the GPU's rate that this is."""

import time
from pathlib import Path

import torch
from msgspec import Struct

from nexrl.records import Float32s, Int32s
from nexrl_trainer.algorithms.objective import Objective
from nexrl_trainer.batches.datums import Datum
from nexrl_trainer.policy.service import Optimizer
from nexrl_trainer.policy.torch_backend import TorchBackend
from nexrl_trainer.recipe.train import Train

OPTIMIZER = Optimizer(learning_rate=1e-6, betas=(0.9, 0.999), weight_decay=0.0, grad_clip=1.0)
WARM_STEPS = 2


class Trained(Struct, frozen=True, kw_only=True):
    """One kind of step, measured."""

    tokens_s: float
    flops_s: float
    """Of the model alone: 6 for a parameter and token, and 12 * layers * width for a pair that attends, halved because
    attention is causal (PaLM, arXiv 2204.02311, appendix B)."""


def steps(model: Path, config: Train, *, rows: int, row: int, count: int) -> Trained:
    """Measure steps on `rows` sequences of `row` tokens that share nothing."""
    backend = TorchBackend(model, config)
    network: torch.nn.Module = backend.model.network
    settings = backend.model.network.config
    datums = [_datum(row, settings.vocab_size, seed) for seed in range(rows)]
    for _ in range(WARM_STEPS):
        _step(backend, datums)
    began = time.perf_counter()
    for _ in range(count):
        _step(backend, datums)
    seconds = (time.perf_counter() - began) / count
    tokens = rows * row
    parameters = sum(item.numel() for item in network.parameters())
    attention = 6 * settings.num_hidden_layers * settings.hidden_size * row
    return Trained(tokens_s=tokens / seconds, flops_s=tokens * (6 * parameters + attention) / seconds)


def _step(backend: TorchBackend, datums: list[Datum]) -> None:
    """Step once; the gradient's norm is read on the CPU, so that the GPU is done afterwards."""
    backend.forward_backward(datums, Objective())
    backend.optim_step(OPTIMIZER)


def _datum(length: int, vocabulary: int, seed: int) -> Datum:
    ids = torch.randint(vocabulary, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
    mask = [0] + [1] * (length - 1)
    return Datum(
        ids=Int32s(ids),
        loss_mask=Int32s(mask),
        logprobs=Float32s([-10.0 * flag for flag in mask]),
        temperatures=Float32s([1.0] * length),
        weight_versions=Int32s([flag - 1 for flag in mask]),
        advantages=Float32s([float(flag) for flag in mask]),
        weights=Float32s([flag / length for flag in mask]),
        session="",
    )
