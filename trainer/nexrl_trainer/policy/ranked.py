"""What backends of several ranks have in common: one process each, that share every batch.

Every rank is called with the same arguments at the same time, and returns the same answer; `placed.py` starts them.
How weights, gradients and the optimizer's state are shared out is the backend's own.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar, TypeVar

import torch
import torch.distributed as dist
from msgspec import Struct
from torch import Tensor, nn

from nexrl.records import Float32s, decode, encode
from nexrl_trainer.algorithms.objective import Objective
from nexrl_trainer.batches.datums import Datum
from nexrl_trainer.policy.checkpoint import on_cpu, random_numbers, write_state
from nexrl_trainer.policy.network import language_model
from nexrl_trainer.policy.network.packing import Cost, plan
from nexrl_trainer.policy.passes import Passes
from nexrl_trainer.policy.service import Capabilities, Sums, merged
from nexrl_trainer.policy.torch_backend import device_for
from nexrl_trainer.recipe.train import Train

T = TypeVar("T")


class Rank(Struct, frozen=True, kw_only=True):
    """Which of how many, and where they meet."""

    rank: int
    ranks: int
    host: str
    port: int


class RankedBackend:
    """`TrainService` without the awaiting; see there for what each method promises."""

    name: ClassVar[str]
    passes: Passes

    def __init__(self, model: Path, config: Train, rank: Rank) -> None:
        torch.set_num_threads(config.threads)
        self.config, self.rank = config, rank
        self.device = torch.device(device_for(config.device))
        os.environ |= {"RANK": str(rank.rank), "WORLD_SIZE": str(rank.ranks), "LOCAL_RANK": "0"}
        os.environ |= {"MASTER_ADDR": rank.host, "MASTER_PORT": str(rank.port)}
        self._meet("nccl" if self.device.type == "cuda" else "gloo")
        self.model = language_model.load(model, checkpointing=config.activation_checkpointing)
        self.cost: Cost = self.model.cost
        self.parameters = sum(item.numel() for item in self.model.parameters())

    def capabilities(self) -> Capabilities:
        return Capabilities(
            backend=self.name,
            ranks=self.rank.ranks,
            parameters=self.parameters,
            trained_parameters=self.parameters,
            shared_prefixes=True,
        )

    def forward(self, datums: list[Datum]) -> list[Float32s]:
        mine = self.passes.forward(datums, self._plan(datums))
        found = {
            index: values for part in self._everybodys(mine, dict[int, Float32s]) for index, values in part.items()
        }
        return [found[index] for index in range(len(datums))]

    def forward_backward(self, datums: list[Datum], objective: Objective) -> Sums:
        # Gradients are averaged over ranks; the tokens' weights have divided by the whole batch already.
        sums = self.passes.forward_backward(
            datums, self._plan(datums), objective, lambda loss: self._backward(loss * self.rank.ranks)
        )
        return merged(self._everybodys(sums, Sums))

    def save(self, folder: Path) -> Callable[[], None]:
        # All ranks gather, one at a time; the first alone keeps and writes.
        weights = self._gathered(self._weights())
        state = {name: on_cpu(values) for name, values in self._state() if self._writes}
        random = random_numbers(self.device)

        def write() -> None:
            if self._writes:
                self.model.write(folder, weights)
                write_state(folder, state, random)

        return write

    def publish_weights(self, folder: Path) -> None:
        weights = self._gathered(self._weights())
        if self._writes:
            self.model.write(folder, weights)
        dist.barrier()

    def _meet(self, transport: str) -> None:
        """Meet the other ranks, over NCCL or Gloo."""
        raise NotImplementedError

    def _backward(self, loss: Tensor) -> None:
        raise NotImplementedError

    def _weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield whole float32 weights by name; all ranks together."""
        raise NotImplementedError

    def _state(self) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
        """Yield AdamW's whole state by parameter name, nothing before the first step; all ranks together."""
        raise NotImplementedError

    @property
    def _writes(self) -> bool:
        return self.rank.rank == 0

    def _gathered(self, weights: Iterator[tuple[str, Tensor]]) -> dict[str, Tensor]:
        # By all ranks, too: asking a module for its state makes FSDP share out what it holds whole.
        buffers = on_cpu(self.model.buffers_by_name())
        return buffers | {name: value.to("cpu", copy=True) for name, value in weights if self._writes}

    def _plan(self, datums: list[Datum]) -> list[list[int]]:
        """Return this rank's passes; every rank has as many, some of them of nothing: sharded layers meet in each."""
        ids = [datum.ids for datum in datums]
        planned = plan(ids, self.config.micro_batch_tokens, self.cost, self.rank.ranks)
        mine = planned[self.rank.rank]
        return mine + [[]] * (max(map(len, planned)) - len(mine))

    def _everybodys(self, mine: T, kind: type[T]) -> list[T]:
        """Return what every rank has. As MessagePack: torch's own way of it would unpickle what comes in."""
        data = torch.frombuffer(bytearray(encode(mine)), dtype=torch.uint8).to(self.device)
        sizes = [torch.zeros(1, dtype=torch.int64, device=self.device) for _ in range(self.rank.ranks)]
        dist.all_gather(sizes, torch.tensor([len(data)], device=self.device))
        longest = max(int(size) for size in sizes)
        parts = [torch.zeros(longest, dtype=torch.uint8, device=self.device) for _ in sizes]
        dist.all_gather(parts, nn.functional.pad(data, (0, longest - len(data))))
        arrived = [part[: int(size)].cpu().numpy().tobytes() for part, size in zip(parts, sizes, strict=True)]
        return [decode(part, kind) for part in arrived]
