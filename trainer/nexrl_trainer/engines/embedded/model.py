"""A Hugging Face causal LM that computes packed new tokens against KV slots.

Loads it, proves on a few tokens that its attention goes through ours, runs one step, and takes new weights.
Which requests are in a step is `scheduler.py`'s business.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nexrl.errors import ConfigError
from nexrl_trainer.engines.adapters import base_of, is_adapter
from nexrl_trainer.engines.checksums import digest
from nexrl_trainer.engines.embedded.attention import NAME, SlotStep, UnsupportedAttentionError, register
from nexrl_trainer.engines.embedded.batch import Batch, Piece, lay_out
from nexrl_trainer.engines.embedded.cache import SlotCache
from nexrl_trainer.engines.embedded.stopping import Detokenise
from nexrl_trainer.engines.embedded.weights import match, read_checkpoint, weights_of
from nexrl_trainer.engines.embedded.wire import Limits

_LENGTH_DEPENDENT_ROPE = ("dynamic", "longrope")
_PROBE_TOKENS = 5
_PROBE_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}


class SlotModel:
    """The live model and its slots. Used by one thread at a time."""

    def __init__(self, model: Any, *, slots: int, limits: Limits, eos: frozenset[int]) -> None:
        self.model = model
        self.device: torch.device = model.device
        self.limits = limits
        self.eos = eos
        self.weights = weights_of(model)
        self.cache = SlotCache(slots, limits.max_length)

    @torch.inference_mode()
    def forward(self, batch: Batch) -> Tensor:
        """Compute the batch, keep its keys and values, and return logits [sampled, vocabulary]."""
        self.cache.reserve(batch.length)
        output = self.model(
            input_ids=batch.input_ids,
            position_ids=batch.positions,
            use_cache=False,
            logits_to_keep=batch.keep,
            slot_step=SlotStep(batch, self.cache),
        )
        return output.logits[0]

    def check(self, tensors: Mapping[str, Tensor]) -> list[Tensor]:
        """Return what `adopt` takes, on the model's device; raises CheckpointError where the tensors do not fit."""
        fitting = match(tensors, self.weights)
        return [
            tensor.to(self.device, weight.tensor.dtype) for tensor, weight in zip(fitting, self.weights, strict=True)
        ]

    def checksums(self) -> dict[str, str]:
        """Return each tensor's checksum, under all its names; they must not change meanwhile."""
        return {name: summed for weight in self.weights for summed in (digest(weight.tensor),) for name in weight.names}

    @torch.no_grad()
    def adopt(self, tensors: list[Tensor]) -> None:
        """Replace all weights. What the slots hold was made by the old ones: the caller forgets it."""
        for weight, tensor in zip(self.weights, tensors, strict=True):
            weight.tensor.copy_(tensor)


def load(directory: Path, *, slots: int, max_length: int | None, device: str, dtype: str) -> SlotModel:
    """Load the model, or an adapter with its model, for `slots` concurrent requests.

    Raises ConfigError where it cannot be served.
    """
    from transformers import AutoModelForCausalLM

    base = base_of(directory) if is_adapter(directory) else directory
    if not (base / "config.json").is_file():
        raise ConfigError(f"--model {base}: no config.json there; give a directory in Hugging Face layout")
    register()
    place = _device(device)
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            base, dtype=getattr(torch, dtype), attn_implementation=NAME, local_files_only=True
        )
    except (OSError, ValueError) as error:
        raise ConfigError(f"--model {directory}: {error}") from error
    model = model.to(place).eval().requires_grad_(requires_grad=False)
    limits = Limits(
        vocabulary=model.get_input_embeddings().num_embeddings,
        max_length=_max_length(model.config, max_length),
        can_detokenise=(directory / "tokenizer.json").is_file(),
    )
    loaded = SlotModel(model, slots=slots, limits=limits, eos=_eos(model))
    _prove(loaded)
    if base != directory:
        loaded.adopt(loaded.check(read_checkpoint(directory)))
    return loaded


def detokeniser(directory: Path) -> Detokenise | None:
    """Return the decoder of `directory/tokenizer.json`, special tokens shown; None where there is no such file."""
    path = directory / "tokenizer.json"
    if not path.is_file():
        return None
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    return lambda ids: tokenizer.decode(list(ids), skip_special_tokens=False)


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch sees no GPU; use cpu or auto")
    return torch.device(name)


def _max_length(config: Any, asked: int | None) -> int:
    positions = config.max_position_embeddings
    if asked is not None and not 2 <= asked <= positions:  # noqa: PLR2004 - one token in, one out
        raise ConfigError(f"--max-length {asked}: the model has {positions} positions; use 2 to {positions}")
    return asked or positions


def _eos(model: Any) -> frozenset[int]:
    found = model.generation_config.eos_token_id
    if found is None:
        found = model.config.eos_token_id
    return frozenset([found] if isinstance(found, int) else found or ())


@torch.inference_mode()
def _prove(loaded: SlotModel) -> None:
    """Compare our attention with transformers' own on a few tokens, one chunk and one single token."""
    model = loaded.model
    name = type(model).__name__
    rope: Mapping[str, Any] = getattr(model.config, "rope_parameters", None) or {}
    if rope.get("rope_type") in _LENGTH_DEPENDENT_ROPE:
        # Such angles depend on the longest request of a batch, so a token's logprob would depend on its neighbours.
        raise ConfigError(f"{name}: rope_type {rope['rope_type']!r} is not supported; use another model or engine")
    count = min(_PROBE_TOKENS, loaded.limits.max_length)
    ids = [token % loaded.limits.vocabulary for token in range(1, count + 1)]
    chunk = Piece(slot=0, start=0, ids=ids[:-1], samples=False)
    single = Piece(slot=0, start=count - 1, ids=ids[-1:], samples=True)
    try:
        loaded.forward(lay_out([chunk], loaded.device))
        ours = loaded.forward(lay_out([single], loaded.device))[-1].float()
    except (UnsupportedAttentionError, KeyError, TypeError) as error:
        raise ConfigError(f"{name} is not supported by the embedded engine: {error}") from error
    layers = model.config.num_hidden_layers
    if loaded.cache.layers != layers:
        raise ConfigError(f"{name}: {loaded.cache.layers} of {layers} layers attend through slots; use another engine")
    model.set_attn_implementation("eager")
    theirs = model(input_ids=torch.tensor([ids], device=loaded.device), use_cache=False).logits[0, -1].float()
    model.set_attn_implementation(NAME)
    tolerance = _PROBE_TOLERANCE[model.dtype] * max(1.0, theirs.abs().max().item())
    if (ours - theirs).abs().max().item() > tolerance:
        raise ConfigError(f"{name}: its attention is not plain causal attention; use another engine")
