"""LoRA adapters on a language model, through peft: put on, merged for engines, saved beside. arXiv 2106.09685."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor

from nexrl.errors import ConfigError
from nexrl_trainer.recipe.train import Lora

ADAPTER = "default"
# In a folder of its own: transformers would load an adapter that lies beside the merged weights on top of them.
ADAPTER_FILE = Path("adapter") / "adapter_model.safetensors"
ALL_LINEAR = "all-linear"


def put_on(network: Any, settings: Lora) -> LoraConfig:
    """Give a model adapters, whose product is 0 at first; nothing else of it is trained from now on.

    Raises ConfigError where a target is no linear layer of the model.
    """
    layers = [name for name, module in network.base_model.named_modules() if isinstance(module, torch.nn.Linear)]
    if settings.targets == [ALL_LINEAR]:
        targets = sorted({name.rpartition(".")[2] for name in layers})
    else:
        targets = settings.targets
        for target in targets:
            if not any(name == target or name.endswith(f".{target}") for name in layers):
                known = ", ".join(sorted({name.rpartition(".")[2] for name in layers}))
                raise ConfigError(f"train.lora.targets: no linear layer {target!r} to adapt; the model has {known}")
    config = LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=targets, task_type="CAUSAL_LM")
    # As the file it is read from: who is given the adapter alone looks for the model there.
    config.base_model_name_or_path = str(Path(network.name_or_path).resolve())
    inject_adapter_in_model(config, network, ADAPTER)
    return config


@torch.no_grad()
def merged_weights(network: Any) -> dict[str, Tensor]:
    """Return the weights with the adapters' products added, by the names they have without adapters."""
    weights = {
        name.replace(".base_layer.", "."): value for name, value in network.state_dict().items() if ".lora_" not in name
    }
    for name, module in network.named_modules():
        if isinstance(module, LoraLayer):
            layer: Any = module
            weights[f"{name}.weight"] = layer.base_layer.weight + layer.get_delta_weight(ADAPTER)
    return weights


def write_adapter(adapter: Mapping[str, Tensor], config: LoraConfig, folder: Path) -> None:
    """Write what `adapter_weights` returned as peft does, so that `PeftModel.from_pretrained` reads it."""
    config.save_pretrained(str(folder))
    # peft's names: those of a model wrapped twice, without the adapter's.
    save_file(
        {f"base_model.model.{name.replace(f'.{ADAPTER}.', '.')}": value for name, value in adapter.items()},
        folder / ADAPTER_FILE.name,
    )


def read_adapter(network: Any, folder: Path) -> None:
    """Set the adapter to what `write_adapter` wrote; raises ConfigError where the folder has none of its shape."""
    if not (folder / ADAPTER_FILE).is_file():
        raise ConfigError(f"checkpoint {folder}: no {ADAPTER_FILE} in it; it was written without train.lora")
    read = load_file(folder / ADAPTER_FILE)
    with torch.no_grad():
        for name, value in adapter_weights(network).items():
            value.copy_(read[f"base_model.model.{name.replace(f'.{ADAPTER}.', '.')}"])


def adapter_weights(network: Any) -> dict[str, Tensor]:
    """Return the adapters' own weights, live."""
    return {name: value for name, value in network.state_dict().items() if ".lora_" in name}
