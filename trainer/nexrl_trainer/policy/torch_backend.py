"""The torch backend: one process, CPU or one GPU, any Hugging Face causal language model.

Holds the model, AdamW and their state. What to train on and when is the loop's business; placing it is `placed.py`'s.
"""

from pathlib import Path
from typing import Any

import torch
from msgspec import Struct
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, PreTrainedModel

from nexrl.errors import ConfigError
from nexrl.records import Float32s
from nexrl_trainer.algorithms.clip import Clip
from nexrl_trainer.algorithms.losses import clipped_policy_loss, clipped_share, k3
from nexrl_trainer.policy import attention
from nexrl_trainer.policy.batches import Datum, micro_batches
from nexrl_trainer.policy.service import Optimizer, Step, TokenSums
from nexrl_trainer.recipe.tree import Train

STATE_FILE = "trainer.pt"


class Pack(Struct, frozen=True, kw_only=True):
    """Sequences laid end to end as tensors. T tokens, N of them trained."""

    ids: Tensor
    """int64 [1, T]"""
    positions: Tensor
    """int64 [1, T], restarting at 0 with each sequence"""
    lengths: list[int]
    predicting: Tensor
    """int64 [N], index of the token before each trained one: its output predicts the trained token"""
    targets: Tensor
    """int64 [N]"""
    behaviour: Tensor
    """float32 [N], engine logprobs"""
    advantages: Tensor
    """float32 [N]"""
    temperatures: Tensor
    """float32 [N]"""


class TorchBackend:
    """`TrainService` without the awaiting; see there for what each method promises."""

    def __init__(self, model: Path, config: Train) -> None:
        torch.set_num_threads(config.threads)
        self.config = config
        self.device = torch.device(_device(config.device))
        self.model = _load(model, self.device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.0)

    def forward(self, datums: list[Datum]) -> list[Float32s]:
        with torch.inference_mode():
            return [self._logprobs_in_place(datum) for datum in datums]

    def forward_backward(self, datums: list[Datum], clip: Clip, normaliser: int) -> TokenSums:
        sums = [
            self._forward_backward(pack(part, self.device), clip, normaliser)
            for part in micro_batches(datums, self.config.micro_batch_tokens)
        ]
        return TokenSums(
            tokens=sum(item.tokens for item in sums),
            loss=sum(item.loss for item in sums),
            ratio=sum(item.ratio for item in sums),
            clipped=sum(item.clipped for item in sums),
            entropy=sum(item.entropy for item in sums),
            kl_engine=sum(item.kl_engine for item in sums),
            gap=sum(item.gap for item in sums),
            gap_max=max(item.gap_max for item in sums),
        )

    def optim_step(self, optimizer: Optimizer) -> Step:
        for group in self.optimizer.param_groups:
            group["lr"] = optimizer.learning_rate
            group["betas"] = optimizer.betas
            group["weight_decay"] = optimizer.weight_decay
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), optimizer.grad_clip)
        if not torch.isfinite(norm):
            self.optimizer.zero_grad(set_to_none=True)
            raise FloatingPointError(f"gradient norm is {norm.item()}; the weights were left as they are")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return Step(grad_norm=norm.item())

    def save(self, folder: Path) -> None:
        self.publish_weights(folder)
        torch.save({"optimizer": self.optimizer.state_dict(), "rng": torch.get_rng_state()}, folder / STATE_FILE)

    def load(self, folder: Path) -> None:
        self.model.load_state_dict(_load(folder, self.device).state_dict())
        state: dict[str, Any] = torch.load(folder / STATE_FILE, map_location=self.device, weights_only=True)
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"].cpu())

    def publish_weights(self, folder: Path) -> None:
        self.model.save_pretrained(folder)

    def _forward_backward(self, packed: Pack, clip: Clip, normaliser: int) -> TokenSums:
        logits = self._logits(packed)
        current = -cross_entropy(logits, packed.targets, reduction="none")
        losses = clipped_policy_loss(current, packed.behaviour, packed.advantages, clip)
        loss = losses.sum() / normaliser
        loss.backward()
        with torch.no_grad():
            current = current.detach()
            gap = (current - packed.behaviour).abs()
            return TokenSums(
                tokens=len(packed.targets),
                loss=loss.item(),
                ratio=torch.exp(current - packed.behaviour).sum().item(),
                clipped=clipped_share(current, packed.behaviour, packed.advantages, clip).sum().item(),
                entropy=torch.distributions.Categorical(logits=logits.detach()).entropy().sum().item(),
                kl_engine=k3(current, packed.behaviour).sum().item(),
                gap=gap.sum().item(),
                gap_max=gap.max().item(),
            )

    def _logits(self, packed: Pack) -> Tensor:
        """Return float32 [N, V], divided by each token's temperature: the distribution that was sampled from."""
        bfloat16 = self.config.dtype == "bfloat16"
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bfloat16):
            output = self.model(
                input_ids=packed.ids,
                position_ids=packed.positions,
                use_cache=False,
                logits_to_keep=packed.predicting,
                lengths=packed.lengths,
            )
        return output.logits[0].float() / packed.temperatures[:, None]

    def _logprobs_in_place(self, datum: Datum) -> Float32s:
        packed = pack([datum], self.device)
        values = Float32s([0.0] * len(datum.ids))
        if len(packed.targets):
            logprobs = -cross_entropy(self._logits(packed), packed.targets, reduction="none")
            for index, value in zip(packed.predicting.tolist(), logprobs.tolist(), strict=True):
                values[index + 1] = value
        return values


def pack(datums: list[Datum], device: torch.device) -> Pack:
    """Lay datums end to end.

    Example: ids 5 6 7 with mask 0 1 1 and ids 8 9 with mask 0 1 -> positions 0 1 2 0 1, predicting 0 1 3.
    """
    lengths = [len(datum.ids) for datum in datums]
    ids = torch.tensor([token for datum in datums for token in datum.ids])
    mask = torch.tensor([flag for datum in datums for flag in datum.loss_mask], dtype=torch.bool)
    trained = mask.nonzero()[:, 0]

    def column(name: str) -> Tensor:
        return torch.tensor([value for datum in datums for value in getattr(datum, name)])[trained].to(device)

    return Pack(
        ids=ids[None].to(device),
        positions=torch.cat([torch.arange(length) for length in lengths])[None].to(device),
        lengths=lengths,
        predicting=(trained - 1).to(device),
        targets=ids[trained].to(device),
        behaviour=column("logprobs"),
        advantages=column("advantages"),
        temperatures=column("temperatures"),
    )


def _load(folder: Path, device: torch.device) -> PreTrainedModel:
    # Dropout would make the recomputed logprobs differ from the engine's: the policy is what the engine sampled from.
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=attention.NAME)
    return model.eval().to(device)


def _device(wanted: str) -> str:
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError("train.device=cuda: torch sees no GPU here; use auto or cpu, or install torch's GPU build")
    return wanted
