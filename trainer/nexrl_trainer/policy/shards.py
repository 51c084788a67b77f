"""Whole tensors out of DeepSpeed's shards, and back: what makes a checkpoint independent of ZeRO stage and ranks.

Every function here is called by all ranks together. `deepspeed_backend.py` trains; this reads and writes its state.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
)
from torch import Tensor, nn
from torch.nn.functional import pad

MOMENTS = ("exp_avg", "exp_avg_sq")


def whole_weights(trained: Mapping[str, nn.Parameter]) -> Iterator[tuple[str, Tensor]]:
    """Yield the float32 weights, one parameter at a time gathered from its shards."""
    for name, item in trained.items():
        yield name, _some(safe_get_full_fp32_param(item))


def whole_state(trained: Mapping[str, nn.Parameter], optimizer: Any) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield AdamW's state by parameter name; nothing before the first step."""
    if not optimizer.optimizer.state:
        return
    step = next(iter(optimizer.optimizer.state.values()))["step"]
    for name, item in trained.items():
        yield name, {"step": step, **{key: _some(safe_get_full_optimizer_state(item, key)) for key in MOMENTS}}


@torch.no_grad()
def put_weights(trained: Mapping[str, nn.Parameter], weights: Mapping[str, Tensor]) -> None:
    """Make the weights those given: the float32 ones that are trained, and the ones that are computed with."""
    for name, item in trained.items():
        value = weights[name].float()
        parameter: Any = item
        if not hasattr(parameter, "ds_id"):
            safe_set_full_fp32_param(parameter, value.to(parameter.device))
            parameter.copy_(value)
            continue
        share = _share(parameter, value)
        _optimizer_of(parameter).set_local_hp_param(share, parameter)
        parameter.ds_tensor.copy_(share)
        if parameter.ds_status == ZeroParamStatus.AVAILABLE:
            # Small parameters stay whole on every rank.
            parameter.copy_(value)


def put_state(trained: Mapping[str, nn.Parameter], optimizer: Any, state: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Make AdamW's state the one given; nothing for parameters that were never stepped."""
    _allocate(optimizer)
    for values in optimizer.optimizer.state.values():
        values["step"].copy_(next((item["step"] for item in state.values()), torch.zeros(())))
    for name, item in trained.items():
        for key in MOMENTS:
            value = state[name][key].float() if name in state else torch.zeros(getattr(item, "ds_shape", item.shape))
            if hasattr(item, "ds_id"):
                _optimizer_of(item).set_local_hp_param(_share(item, value), item, key)
            else:
                safe_set_full_optimizer_state(item, value.to(item.device), key)


def _allocate(optimizer: Any) -> None:
    """Give AdamW the state it would make at its first step, where DeepSpeed finds it by parameter."""
    if not optimizer.optimizer.state:
        sharded = hasattr(optimizer, "fp32_partitioned_groups_flat")
        for flat in optimizer.fp32_partitioned_groups_flat if sharded else optimizer.single_partition_of_fp32_groups:
            moments = {key: torch.zeros_like(flat) for key in MOMENTS}
            optimizer.optimizer.state[flat] = {"step": torch.zeros((), device=flat.device), **moments}
        if not sharded:
            optimizer._lazy_init_hp_params_optimizer_state()  # noqa: SLF001


def _some(value: Tensor | None) -> Tensor:
    assert value is not None
    return value


def _share(parameter: Any, value: Tensor) -> Tensor:
    """Return this rank's part of a ZeRO 3 parameter's value; the last ranks' parts are filled up with zeros."""
    size = parameter.ds_tensor.numel()
    rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    flat = pad(value.flatten(), (0, size * ranks - value.numel()))
    return flat[rank * size : (rank + 1) * size].to(parameter.ds_tensor.device)


def _optimizer_of(parameter: Any) -> Any:
    return parameter._z3_optimizer  # noqa: SLF001
