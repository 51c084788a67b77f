"""LoRA adapters in peft's layout (arXiv 2106.09685), merged into the model that they were trained on.

Where adapters are trained, they alone are published; who serves them reads the model, which never changes, itself.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from safetensors import SafetensorError, safe_open
from safetensors.torch import load
from torch import Tensor

from nexrl.errors import NexrlError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX, _DOWN, _UP = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
_PLAIN: dict[str, Any] = {
    "peft_type": "LORA",
    "bias": "none",
    "use_dora": False,
    "use_rslora": False,
    "fan_in_fan_out": False,
    "rank_pattern": {},
    "alpha_pattern": {},
}
"""What the settings of an adapter have to be for `merged` to be right."""


class AdapterError(NexrlError):
    """A directory holds no adapter that can be merged."""


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter instead of a whole model."""
    return (folder / CONFIG).is_file()


def base_of(folder: Path) -> Path:
    """Return the model that an adapter was trained on."""
    return Path(_settings(folder)["base_model_name_or_path"])


def merged(folder: Path, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of the adapter's model with its products added: W + B A * alpha / rank, as peft computes it.

    Raises AdapterError where the adapter is of another kind, or of another model.
    """
    settings, adapter = _settings(folder), _read(folder)
    scale = settings["lora_alpha"] / settings["r"]
    found = dict(weights)
    for name, down in adapter.items():
        if not name.endswith(_DOWN):
            continue
        place = name.removeprefix(_PREFIX).removesuffix(_DOWN) + ".weight"
        up = adapter[name.removesuffix(_DOWN) + _UP]
        if place not in found or found[place].shape != (len(up), down.shape[1]):
            raise AdapterError(f"{folder}: {place} of {settings['base_model_name_or_path']} is not what it adapts")
        found[place] = found[place] + (up @ down) * scale
    return found


def whole(folder: Path) -> dict[str, Tensor]:
    """Return the weights that an adapter and its model make together."""
    weights: dict[str, Tensor] = {}
    for file in sorted(base_of(folder).glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            weights |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - it is no mapping
    return merged(folder, weights)


def _settings(folder: Path) -> dict[str, Any]:
    try:
        settings: dict[str, Any] = msgspec.json.decode((folder / CONFIG).read_bytes())
    except (OSError, msgspec.DecodeError) as error:
        raise AdapterError(f"{folder / CONFIG}: {error}") from error
    for name, wanted in _PLAIN.items():
        if (value := settings.get(name, wanted) or wanted) != wanted:
            raise AdapterError(f"{folder / CONFIG}: {name}={value} cannot be merged; it has to be {wanted}")
    return settings


def _read(folder: Path) -> dict[str, Tensor]:
    try:
        return load((folder / WEIGHTS).read_bytes())
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"{folder / WEIGHTS}: {error}") from error
