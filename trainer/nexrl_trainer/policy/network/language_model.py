"""A Hugging Face causal language model as the trainer uses it: packed rows in, logprobs and entropies out.

Loading and writing it included; gradients, optimizers and devices are the backends'.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from nexrl.errors import ConfigError
from nexrl_trainer.policy.network import attention
from nexrl_trainer.policy.network.head import LogprobHead, take_over
from nexrl_trainer.policy.network.packing import Cost
from nexrl_trainer.policy.network.tensors import Pack


class LanguageModel(nn.Module):
    """The network with a head that answers with logprobs."""

    def __init__(self, network: PreTrainedModel) -> None:
        super().__init__()
        self.network = network
        self.head_name = _name_of(network, take_over(network))

    def forward(self, packed: Pack) -> tuple[Tensor, Tensor]:
        """Return the trained tokens' logprobs and entropies, float32 [N], of the distribution sampled from."""
        body: Any = self.network.base_model
        hidden = body(
            input_ids=packed.ids, position_ids=packed.positions, use_cache=False, layout=packed.layout
        ).last_hidden_state[0]
        head: Any = self.network.get_submodule(self.head_name)
        return head(hidden[packed.predicting], packed.targets, packed.temperatures)

    def trained_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield what the optimizer changes, each parameter once, by its name in the Hugging Face layout."""
        return ((name, item) for name, item in self.network.named_parameters() if item.requires_grad)

    def layers(self) -> list[nn.Module]:
        """Return the blocks that the network repeats, as those who shard it want them."""
        return [module for module in self.network.modules() if isinstance(module, GradientCheckpointingLayer)]

    def buffers_by_name(self) -> dict[str, Tensor]:
        """Return what belongs to the weights in the Hugging Face layout beside the parameters."""
        own = {name for name, _ in self.network.named_parameters(remove_duplicate=False)}
        return {name: value for name, value in self.network.state_dict().items() if name not in own}

    def weights(self) -> dict[str, Tensor]:
        """Return the weights in the Hugging Face layout, live; those that are tied once."""
        return self.buffers_by_name() | dict(self.network.named_parameters())

    def write(self, folder: Path, weights: dict[str, Tensor]) -> None:
        """Write weights in Hugging Face layout; of the network, only what never changes is looked at."""
        self.network.save_pretrained(folder, state_dict=weights)

    @property
    def cost(self) -> Cost:
        """What a pass costs: a token every parameter once, a pair of tokens a product and a sum in every layer."""
        config: Any = self.network.config
        parameters = sum(getattr(item, "ds_numel", item.numel()) for item in self.network.parameters())
        return Cost(pair=2 * config.num_hidden_layers * config.hidden_size / parameters)


def load(folder: Path, *, checkpointing: bool) -> LanguageModel:
    """Read a model in float32; `checkpointing` computes each layer's activations again in the backward pass.

    Raises ConfigError for a model whose layers or head the trainer cannot work with.
    """
    network: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=attention.NAME)
    # Dropout would make the recomputed logprobs differ from the engine's: the policy is what the engine sampled from.
    network.eval()
    if checkpointing:
        _checkpoint_activations(network)
    return LanguageModel(network)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Return the weights of a model in Hugging Face layout, float32, on the CPU."""
    network: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return network.state_dict()


def _checkpoint_activations(network: Any) -> None:
    if not network.supports_gradient_checkpointing:
        raise ConfigError(f"train.activation_checkpointing: {type(network).__name__} does not support it; remove it")
    # Renamed in transformers 5; the old name warns there.
    newer = getattr(network, "activation_checkpointing_enable", None)
    (newer or network.gradient_checkpointing_enable)({"use_reentrant": False})
    for module in network.modules():
        if isinstance(module, GradientCheckpointingLayer):
            # A layer checkpoints only while training; what is inside it stays in evaluation mode.
            module.training = True


def _name_of(network: nn.Module, head: LogprobHead) -> str:
    return next(name for name, module in network.named_modules() if module is head)
