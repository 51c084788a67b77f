"""The DeepSpeed backend: ranks that share out, by ZeRO, the optimizer's state, the gradients and the weights.

ZeRO: arXiv 1910.02054. What it has in common with other backends of several ranks is `ranked.py`'s.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nexrl_trainer.policy import adamw
from nexrl_trainer.policy.checkpoint import read_state
from nexrl_trainer.policy.network import language_model
from nexrl_trainer.policy.passes import Passes
from nexrl_trainer.policy.ranked import Rank, RankedBackend
from nexrl_trainer.policy.service import Optimizer, Step
from nexrl_trainer.recipe.train import Train


class DeepSpeedBackend(RankedBackend):
    """`TrainService` without the awaiting; see there for what each method promises."""

    name = "deepspeed"

    def __init__(self, model: Path, config: Train, rank: Rank) -> None:
        super().__init__(model, config, rank)
        self.trained: dict[str, nn.Parameter] = dict(self.model.trained_parameters())
        import deepspeed

        base = torch.optim.AdamW(self.trained.values(), lr=0.0, fused=True)
        started: Any = deepspeed.initialize(
            model=self.model, optimizer=base, config=_settings(config), dist_init_required=False
        )
        self.engine, self.optimizer = started[:2]
        self.passes = Passes(self.engine, self.device, None)

    def optim_step(self, optimizer: Optimizer) -> Step:
        adamw.configure(self.optimizer.param_groups, optimizer)
        self.optimizer.clip_grad = optimizer.grad_clip
        self.engine.step()
        # DeepSpeed itself skips a step whose gradient is no number.
        return Step(grad_norm=adamw.checked(float(self.engine.get_global_grad_norm())))

    def load(self, folder: Path) -> None:
        from nexrl_trainer.policy.shards import put_state, put_weights

        self.optimizer.zero_grad()
        put_weights(self.trained, language_model.read_weights(folder))
        put_state(self.trained, self.optimizer, read_state(folder, torch.device("cpu")))

    def _meet(self, transport: str) -> None:
        # Before deepspeed is imported: it chooses once.
        os.environ["DS_ACCELERATOR"] = self.device.type
        import deepspeed
        from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder

        # It would be compiled at first use: a minute and a half, and a compiler. Gloo does the same.
        deepspeed.ops.__compatible_ops__[ShareMemCommBuilder.NAME] = False
        deepspeed.init_distributed(
            dist_backend=transport, auto_mpi_discovery=False, rank=self.rank.rank, world_size=self.rank.ranks
        )

    def _backward(self, loss: Tensor) -> None:
        self.engine.backward(loss)

    def _weights(self) -> Iterator[tuple[str, Tensor]]:
        from nexrl_trainer.policy.shards import whole_weights

        return whole_weights(self.trained)

    def _state(self) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
        from nexrl_trainer.policy.shards import whole_state

        return whole_state(self.trained, self.optimizer)


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
