"""Does an engine hold what was published? Its own checksums against those of the published tensors.

SGLang and the embedded engine compute them (`/weights_checker`); `checksums.py` computes the same. An engine may store
tensors in a narrower type, and several of them as one: both are tried, and what is not found is an error.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from nexrl.errors import ConfigError, ServiceError
from nexrl_trainer.engines.adapters import base_of, is_adapter, whole
from nexrl_trainer.engines.checksums import digest, mixed

FUSED = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}
"""Layers that SGLang stores as one, and what they are in the Hugging Face layout, from top to bottom."""
PADDED = ("embed_tokens.weight", "lm_head.weight")
ROWS = 64
"""To a multiple of which SGLang fills up a vocabulary, with zeros."""
Way = tuple[torch.dtype, Callable[[Tensor], str]]
WAYS: tuple[Way, ...] = tuple(itertools.product((torch.float32, torch.bfloat16, torch.float16), (digest, mixed)))


class Published:
    """The tensors of a folder in Hugging Face layout, read when they are asked for, and their checksums.

    Those of an adapter are its model's, merged.
    """

    def __init__(self, folder: Path) -> None:
        adapter = is_adapter(folder)
        self._merged = whole(folder) if adapter else {}
        self._files: dict[str, Path] = {}
        for file in sorted((base_of(folder) if adapter else folder).glob("*.safetensors")):
            with safe_open(file, "pt") as opened:
                self._files |= dict.fromkeys(opened.keys(), file)
        self._known: dict[tuple[tuple[str, ...], Way, bool], str] = {}

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._files)

    def checksum(self, names: tuple[str, ...], way: Way, *, padded: bool) -> str:
        """Return the checksum of tensors joined at their first dimension; computed once for all engines."""
        key = (names, way, padded)
        if key not in self._known:
            dtype, summed = way
            self._known[key] = summed(self._joined(names, padded=padded).to(dtype))
        return self._known[key]

    def _joined(self, names: tuple[str, ...], *, padded: bool) -> Tensor:
        parts = [self._read(name) for name in names]
        if padded:
            parts.append(parts[0].new_zeros(-len(parts[0]) % ROWS, *parts[0].shape[1:]))
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _read(self, name: str) -> Tensor:
        if name in self._merged:
            return self._merged[name]
        with safe_open(self._files[name], "pt") as opened:
            return opened.get_tensor(name)


def verify(engine: str, version: int, published: Published, held: Mapping[str, str]) -> None:
    """Raise ServiceError, naming the tensors, where the checksums `held` by an engine are not of what was published.

    Raises ConfigError where a published tensor is not among them, so that nobody can tell.
    """
    places = parts(held, published.names)
    if untold := sorted(published.names - set(itertools.chain(*places.values()))):
        raise ConfigError(
            f"engine.verify: {engine} does not say what it holds of {untold[0]} ({len(untold)} of "
            f"{len(published.names)} tensors); set engine.verify=false"
        )
    differing: list[str] = []
    ways = WAYS
    for place, names in places.items():
        if agreed := _agreeing(published, place, names, ways, held[place]):
            ways = (agreed,)
        else:
            differing += names
    if differing:
        raise ServiceError(
            f"{engine} holds something else than weight version {version} in {', '.join(differing[:3])} "
            f"({len(differing)} of {len(published.names)} tensors): restart it"
        )


def parts(held: Iterable[str], names: frozenset[str]) -> dict[str, tuple[str, ...]]:
    """Return which published tensors each of an engine's consists of; what it has beside them is left out.

    Example: held "h.qkv_proj.weight", "h.scale", names "h.q_proj.weight", ... -> "h.qkv_proj.weight": (q, k, v)
    """
    found: dict[str, tuple[str, ...]] = {}
    for place in held:
        whole = (place,) if place in names else _unfused(place)
        if whole and names.issuperset(whole):
            found[place] = whole
    return found


def _unfused(place: str) -> tuple[str, ...]:
    for fused, names in FUSED.items():
        if f".{fused}." in place:
            return tuple(place.replace(fused, name) for name in names)
    return ()


def _agreeing(
    published: Published, place: str, names: tuple[str, ...], ways: tuple[Way, ...], wanted: str
) -> Way | None:
    """Return the way of storing and summing in which the published tensors have the wanted checksum."""
    paddings = (False, True) if place.endswith(PADDED) else (False,)
    for way, padded in itertools.product(ways, paddings):
        if published.checksum(names, way, padded=padded) == wanted:
            return way
    return None
