"""The `train` part of a recipe: which backend trains, on what, and how its optimizer steps."""

from typing import Annotated, Literal

from msgspec import Meta

from nexrl_trainer.recipe.part import NotNegative, Part, Positive


class Lora(Part, frozen=True, kw_only=True):
    """Low-rank adapters, arXiv 2106.09685: the model's own weights stay, only the adapters are trained."""

    rank: Positive
    alpha: Positive
    """The adapters' product counts alpha / rank."""
    targets: Annotated[list[str], Meta(min_length=1)]
    """Linear layers that get one, by the end of their name: `q_proj`, `down_proj`; `all-linear` is all but the head."""


class Train(Part, frozen=True, kw_only=True):
    backend: Literal["torch", "fsdp", "deepspeed"] = "torch"
    """`torch` is one process, on a CPU or one GPU; `fsdp` (FSDP2) and `deepspeed` (ZeRO) are `ranks` processes that
    share each batch and the model."""
    ranks: Positive = 1
    """Processes that share a batch; each takes `threads` CPU threads and, where the cluster has them, a GPU."""
    zero_stage: Literal[1, 2, 3] = 2
    """What deepspeed's ranks share out: the optimizer's state; its gradients too; the weights too."""
    offload_optimizer: bool = False
    """Deepspeed keeps the optimizer's state in CPU memory and steps there."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Of the trainer and of the embedded engine; `auto` takes a GPU where torch sees one."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the trainer and the embedded engine compute in; the trainer keeps float32 parameters."""
    threads: Positive = 1
    """CPU threads of the trainer; two were slower than one on small models."""
    learning_rate: Annotated[float, Meta(gt=0)] = 1e-6
    """Of the steps after the warm-up, before the schedule lowers it."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate falls from the end of the warm-up to 0 after the last step."""
    warmup_steps: NotNegative = 0
    """First steps, over which the learning rate rises evenly."""
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: Annotated[float, Meta(ge=0)] = 0.0
    grad_clip: Annotated[float, Meta(gt=0)] = 1.0
    """Largest gradient norm; larger gradients are scaled down to it."""
    micro_batch_tokens: Positive = 8192
    """Tokens of packed sequences that go through the model at once, shared beginnings counted once; a longer sequence
    goes alone."""
    activation_checkpointing: bool = False
    """Compute each layer's activations again in the backward pass instead of keeping them: slower, much less memory."""
    lora: Lora | None = None
    """Train adapters on the torch backend. The embedded engine is given the adapter alone, which it merges; others get
    the merged weights. Checkpoints hold both."""

    def __post_init__(self) -> None:
        for name in ONLY_OF.keys() & set(self.changed()):
            if self.backend not in ONLY_OF[name]:
                having = " or ".join(ONLY_OF[name])
                raise ValueError(
                    f"train.backend={self.backend} has no train.{name}: remove it, or set train.backend={having}"
                )


ONLY_OF = {
    "ranks": ("fsdp", "deepspeed"),
    "zero_stage": ("deepspeed",),
    "offload_optimizer": ("deepspeed",),
    "lora": ("torch",),
}
"""Settings of `train` that not every backend has, and those that do."""
