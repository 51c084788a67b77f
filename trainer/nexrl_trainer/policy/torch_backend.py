"""The torch backend: one process, CPU or one GPU, any Hugging Face causal language model.

Holds the model, AdamW and their state. What to train on and when is the loop's business; placing it is `placed.py`'s.
"""

from collections.abc import Callable
from pathlib import Path

import torch

from nexrl.errors import ConfigError
from nexrl.records import Float32s
from nexrl_trainer.algorithms.objective import Objective
from nexrl_trainer.batches.datums import Datum
from nexrl_trainer.policy import adamw
from nexrl_trainer.policy.checkpoint import on_cpu, random_numbers, read_state, write_state
from nexrl_trainer.policy.network import language_model, lora
from nexrl_trainer.policy.network.packing import plan
from nexrl_trainer.policy.passes import Passes
from nexrl_trainer.policy.service import Capabilities, Optimizer, Step, Sums
from nexrl_trainer.recipe.train import Train


class TorchBackend:
    """`TrainService` without the awaiting; see there for what each method promises."""

    def __init__(self, model: Path, config: Train) -> None:
        torch.set_num_threads(config.threads)
        self.config = config
        self.device = torch.device(device_for(config.device))
        loaded = language_model.load(model, checkpointing=config.activation_checkpointing)
        self.adapter = lora.put_on(loaded.network, config.lora) if config.lora else None
        self.model = loaded.to(self.device)
        autocast = torch.bfloat16 if config.dtype == "bfloat16" else None
        self.passes = Passes(self.model, self.device, autocast)
        self.trained = dict(self.model.trained_parameters())
        self.optimizer = torch.optim.AdamW(self.trained.values(), lr=0.0, fused=True)

    def capabilities(self) -> Capabilities:
        return Capabilities(
            backend="torch",
            ranks=1,
            parameters=sum(item.numel() for item in self.model.parameters()),
            trained_parameters=sum(item.numel() for item in self.trained.values()),
            shared_prefixes=True,
        )

    def forward(self, datums: list[Datum]) -> list[Float32s]:
        found = self.passes.forward(datums, self._plan(datums))
        return [found[index] for index in range(len(datums))]

    def forward_backward(self, datums: list[Datum], objective: Objective) -> Sums:
        return self.passes.forward_backward(datums, self._plan(datums), objective, torch.Tensor.backward)

    def optim_step(self, optimizer: Optimizer) -> Step:
        return adamw.step(self.optimizer, self.trained.values(), optimizer)

    def save(self, folder: Path) -> Callable[[], None]:
        weights, random = on_cpu(self._weights()), random_numbers(self.device)
        state = {
            name: on_cpu(self.optimizer.state[item])
            for name, item in self.trained.items()
            if item in self.optimizer.state
        }
        adapter = on_cpu(lora.adapter_weights(self.model.network)) if self.adapter else {}

        def write() -> None:
            self.model.write(folder, weights)
            write_state(folder, state, random)
            if self.adapter:
                lora.write_adapter(adapter, self.adapter, folder / lora.ADAPTER_FILE.parent)

        return write

    def load(self, folder: Path) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        if self.adapter:
            lora.read_adapter(self.model.network, folder)
        else:
            self.model.network.load_state_dict(language_model.read_weights(folder))
        state = read_state(folder, self.device)
        self.optimizer.load_state_dict(
            self.optimizer.state_dict()
            | {"state": {index: state[name] for index, name in enumerate(self.trained) if name in state}}
        )

    def publish_weights(self, folder: Path) -> None:
        self.model.write(folder, self._weights())

    def publish_adapter(self, folder: Path) -> None:
        assert self.adapter, "nothing but adapters is published where none is trained"
        lora.write_adapter(lora.adapter_weights(self.model.network), self.adapter, folder)

    def _weights(self) -> dict[str, torch.Tensor]:
        return lora.merged_weights(self.model.network) if self.adapter else self.model.weights()

    def _plan(self, datums: list[Datum]) -> list[list[int]]:
        return plan([datum.ids for datum in datums], self.config.micro_batch_tokens, self.model.cost)[0]


def device_for(wanted: str) -> str:
    """Return torch's name of the device a recipe wants; raises ConfigError where there is none."""
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError("train.device=cuda: torch sees no GPU here; use auto or cpu, or install torch's GPU build")
    return wanted
