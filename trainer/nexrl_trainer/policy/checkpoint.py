"""What a checkpoint holds beside the weights: AdamW's state by parameter name, and torch's random numbers.

One format for every backend and number of ranks, so that a run may go on with another. Safetensors: reading it runs
no code. It is written from copies, so that training may go on meanwhile.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from nexrl.errors import ConfigError

STATE_FILE = "optimizer.safetensors"
RANDOM = "random."
"""Before the kind of device whose random numbers they are."""


def on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies that nothing changes any more."""
    return {name: value.detach().to("cpu", copy=True) for name, value in tensors.items()}


def random_numbers(device: torch.device) -> dict[str, Tensor]:
    """Return where torch's random numbers are, by kind of device: the CPU's, and a GPU's where it is one."""
    found = {"cpu": torch.get_rng_state()}
    return found | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def write_state(folder: Path, state: Mapping[str, Mapping[str, Tensor]], random: Mapping[str, Tensor]) -> None:
    """Write the optimizer's state by parameter name and key (`step`, `exp_avg`, `exp_avg_sq`), and random numbers."""
    flat = {f"{key}:{name}": value.contiguous() for name, values in state.items() for key, value in values.items()}
    save_file(flat | {f"{RANDOM}{kind}": value for kind, value in random.items()}, folder / STATE_FILE)


def read_state(folder: Path, device: torch.device) -> dict[str, dict[str, Tensor]]:
    """Return what `write_state` wrote, and set torch's random numbers to where they were.

    A GPU's random numbers stay as they are where the checkpoint was written without one. Raises ConfigError where the
    folder has none.
    """
    file = folder / STATE_FILE
    if not file.is_file():
        raise ConfigError(f"checkpoint {folder}: no {STATE_FILE} in it; was it written by this version of nexrl-train?")
    flat = load_file(file)
    random = {name: flat.pop(name) for name in list(flat) if name.startswith(RANDOM)}
    torch.set_rng_state(random[f"{RANDOM}cpu"])
    if device.type == "cuda" and f"{RANDOM}cuda" in random:
        torch.cuda.set_rng_state(random[f"{RANDOM}cuda"], device)
    state: dict[str, dict[str, Tensor]] = {}
    for name, value in flat.items():
        key, _, parameter = name.partition(":")
        # The step count stays on the CPU, where AdamW keeps it unless it is fused or captured.
        state.setdefault(parameter, {})[key] = value.to(device)
    return state
