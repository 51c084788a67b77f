"""The FSDP backend: ranks that share out weights, gradients and optimizer by torch's own `fully_shard` (FSDP2).

Each layer's weights are whole only while it is computed. What it has in common with other backends of several ranks is
`ranked.py`'s. FSDP: arXiv 2304.11277.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from nexrl_trainer.policy import adamw
from nexrl_trainer.policy.checkpoint import read_state
from nexrl_trainer.policy.network import language_model
from nexrl_trainer.policy.passes import Passes
from nexrl_trainer.policy.ranked import Rank, RankedBackend
from nexrl_trainer.policy.service import Optimizer, Step
from nexrl_trainer.recipe.train import Train


class FsdpBackend(RankedBackend):
    """`TrainService` without the awaiting; see there for what each method promises."""

    name = "fsdp"

    def __init__(self, model: Path, config: Train, rank: Rank) -> None:
        super().__init__(model, config, rank)
        self.model.to(self.device)
        narrow = torch.bfloat16 if config.dtype == "bfloat16" else None
        # Gradients of many ranks add up in float32, whatever they were computed in.
        policy = MixedPrecisionPolicy(param_dtype=narrow, reduce_dtype=torch.float32)
        mesh = init_device_mesh(self.device.type, (rank.ranks,))
        for layer in self.model.layers():
            fully_shard(layer, mesh=mesh, mp_policy=policy)
        fully_shard(self.model, mesh=mesh, mp_policy=policy)
        self.trained: dict[str, nn.Parameter] = dict(self.model.trained_parameters())
        self.optimizer = torch.optim.AdamW(self.trained.values(), lr=0.0, fused=True)
        self.passes = Passes(self.model, self.device, None)

    def optim_step(self, optimizer: Optimizer) -> Step:
        return adamw.step(self.optimizer, self.trained.values(), optimizer)

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        weights = language_model.read_weights(folder)
        for name, item in self.trained.items():
            item.copy_(_share(weights[name], item))
        state = read_state(folder, self.device)
        self.optimizer.state.clear()
        for name, values in state.items():
            item = self.trained[name]
            moments = {key: _share(value, item) for key, value in values.items() if key != "step"}
            self.optimizer.state[item] = {"step": values["step"].to(self.device), **moments}

    def _meet(self, transport: str) -> None:
        where = f"tcp://{self.rank.host}:{self.rank.port}"
        dist.init_process_group(transport, init_method=where, rank=self.rank.rank, world_size=self.rank.ranks)

    def _backward(self, loss: Tensor) -> None:
        loss.backward()

    def _weights(self) -> Iterator[tuple[str, Tensor]]:
        return ((name, _whole(item.detach())) for name, item in self.trained.items())

    def _state(self) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
        for name, item in self.trained.items():
            if item in self.optimizer.state:
                yield name, {key: _whole(value) for key, value in self.optimizer.state[item].items()}


def _whole(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value


def _share(value: Tensor, like: Any) -> Tensor:
    """Return this rank's share of a value that every rank has, laid out as a parameter is."""
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
