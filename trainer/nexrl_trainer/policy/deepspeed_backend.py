"""The DeepSpeed backend: one rank of several that share every batch and, by ZeRO, the optimizer, gradients, weights.

Every rank is called with the same arguments at the same time, and returns the same answer; `placed.py` starts them.
ZeRO: arXiv 1910.02054.
"""

import math
import os
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from msgspec import Struct
from torch import Tensor, nn

from nexrl.records import Float32s, decode, encode
from nexrl_trainer.algorithms.objective import Objective
from nexrl_trainer.batches.datums import Datum
from nexrl_trainer.policy.checkpoint import read_state, write_state
from nexrl_trainer.policy.network import language_model
from nexrl_trainer.policy.network.packing import Cost, plan
from nexrl_trainer.policy.passes import Passes
from nexrl_trainer.policy.service import Capabilities, Optimizer, Step, Sums, merged
from nexrl_trainer.policy.torch_backend import device_for
from nexrl_trainer.recipe.tree import Train

T = TypeVar("T")


class Rank(Struct, frozen=True, kw_only=True):
    """Which of how many, and where they meet."""

    rank: int
    ranks: int
    host: str
    port: int


class DeepSpeedBackend:
    """`TrainService` without the awaiting; see there for what each method promises."""

    def __init__(self, model: Path, config: Train, rank: Rank) -> None:
        torch.set_num_threads(config.threads)
        self.config, self.rank = config, rank
        self.device = torch.device(device_for(config.device))
        _join(rank, self.device)
        self.model = language_model.load(model, checkpointing=config.activation_checkpointing)
        self.cost: Cost = self.model.cost
        self.parameters = sum(item.numel() for item in self.model.parameters())
        self.trained: dict[str, nn.Parameter] = dict(self.model.trained_parameters())
        import deepspeed

        base = torch.optim.AdamW(self.trained.values(), lr=0.0, fused=True)
        started: Any = deepspeed.initialize(
            model=self.model, optimizer=base, config=_settings(config), dist_init_required=False
        )
        self.engine, self.optimizer = started[:2]
        self.passes = Passes(self.engine, self.device, None)

    def capabilities(self) -> Capabilities:
        return Capabilities(
            backend="deepspeed",
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
        sums = self.passes.forward_backward(datums, self._plan(datums), objective, self._backward)
        return merged(self._everybodys(sums, Sums))

    def optim_step(self, optimizer: Optimizer) -> Step:
        for group in self.optimizer.param_groups:
            group["lr"] = optimizer.learning_rate
            group["betas"] = optimizer.betas
            group["weight_decay"] = optimizer.weight_decay
        self.optimizer.clip_grad = optimizer.grad_clip
        self.engine.step()
        # DeepSpeed itself skips a step whose gradient is no number.
        norm = float(self.engine.get_global_grad_norm())
        if not math.isfinite(norm):
            raise FloatingPointError(f"gradient norm is {norm}; the weights were left as they are")
        return Step(grad_norm=norm)

    def save(self, folder: Path) -> None:
        from nexrl_trainer.policy.shards import whole_state

        self.publish_weights(folder)
        state = whole_state(self.trained, self.optimizer)
        if self.rank.rank == 0:
            write_state(folder, state)
        dist.barrier()

    def load(self, folder: Path) -> None:
        from nexrl_trainer.policy.shards import put_state, put_weights

        self.optimizer.zero_grad()
        put_weights(self.trained, language_model.read_weights(folder))
        put_state(self.trained, self.optimizer, read_state(folder, torch.device("cpu")))

    def publish_weights(self, folder: Path) -> None:
        from nexrl_trainer.policy.shards import whole_weights

        weights = whole_weights(self.trained)
        if self.rank.rank == 0:
            self.model.publish(folder, weights)
        dist.barrier()

    def _backward(self, loss: Tensor) -> None:
        # DeepSpeed averages over ranks; the tokens' weights have divided by the whole batch already.
        self.engine.backward(loss * self.rank.ranks)

    def _plan(self, datums: list[Datum]) -> list[list[int]]:
        """Return this rank's passes; every rank has as many, some of them of nothing: ZeRO 3 meets in each layer."""
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


def _join(rank: Rank, device: torch.device) -> None:
    """Meet the other ranks."""
    # Before deepspeed is imported: it chooses once.
    os.environ["DS_ACCELERATOR"] = device.type
    os.environ |= {"RANK": str(rank.rank), "WORLD_SIZE": str(rank.ranks), "LOCAL_RANK": "0"}
    os.environ |= {"MASTER_ADDR": rank.host, "MASTER_PORT": str(rank.port)}
    import deepspeed
    from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder

    # It would be compiled at first use: a minute and a half, and a compiler. Gloo does the same.
    deepspeed.ops.__compatible_ops__[ShareMemCommBuilder.NAME] = False
    backend = "nccl" if device.type == "cuda" else "gloo"
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, rank=rank.rank, world_size=rank.ranks)


def _settings(config: Train) -> dict[str, Any]:
    """Return what DeepSpeed is told; batch sizes are ours, it only has to be given some."""
    zero: dict[str, Any] = {"stage": config.zero_stage}
    if config.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": config.device != "cpu"}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        # Gradients add up until we say step, over as many passes as the tokens take.
        "managed_gradient_accumulation": False,
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,
        "gradient_clipping": 1.0,
        "bf16": {"enabled": config.dtype == "bfloat16"},
        "data_types": {"grad_accum_dtype": "fp32"},
        "steps_per_print": 1 << 30,
    }
