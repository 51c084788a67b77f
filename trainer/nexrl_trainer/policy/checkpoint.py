"""What a checkpoint holds beside the weights: AdamW's state by parameter name, and torch's random numbers.

One format for every backend and number of ranks, so that a run may go on with another. Safetensors: reading it runs
no code.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from nexrl.errors import ConfigError

STATE_FILE = "optimizer.safetensors"
RANDOM = "random.cpu"


def write_state(folder: Path, state: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Write the optimizer's state by parameter name and key (`step`, `exp_avg`, `exp_avg_sq`)."""
    flat = {f"{key}:{name}": value.contiguous() for name, values in state.items() for key, value in values.items()}
    save_file(flat | {RANDOM: torch.get_rng_state()}, folder / STATE_FILE)


def read_state(folder: Path, device: torch.device) -> dict[str, dict[str, Tensor]]:
    """Return what `write_state` wrote, and set torch's random numbers to where they were.

    Raises ConfigError where the folder has none.
    """
    file = folder / STATE_FILE
    if not file.is_file():
        raise ConfigError(f"checkpoint {folder}: no {STATE_FILE} in it; was it written by this version of nexrl-train?")
    flat = load_file(file)
    torch.set_rng_state(flat.pop(RANDOM))
    state: dict[str, dict[str, Tensor]] = {}
    for name, value in flat.items():
        key, _, parameter = name.partition(":")
        # The step count stays on the CPU, where AdamW keeps it unless it is fused or captured.
        state.setdefault(parameter, {})[key] = value.to(device)
    return state
