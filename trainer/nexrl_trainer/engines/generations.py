"""What differs between the engines that weights are published to: their kinds, and generations of them.

Pure: which requests an update consists of. Nobody else in the trainer knows; `client.py` sends them.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from nexrl.errors import ConfigError
from nexrl_trainer.engines.layout import Portion

Updates = Literal["in_flight", "drained"]
Backend = Literal["gloo", "nccl"]
"""What a process group communicates with: between CPUs, between NVIDIA's GPUs."""
TOLD_AT, VLLM_TOLD_AT = "/model_info", "/weight_info"
OLDEST, NAMES_TOKENS, OLDEST_VLLM = (0, 5, 13), (0, 5, 23), (0, 32)


class Generation(Struct, frozen=True, kw_only=True):
    """What engines of one kind and generation do around an update."""

    name: str
    speaks: Literal["sglang", "vllm"] = "sglang"
    """Whose routes it has."""
    told_at: str = TOLD_AT
    """Where it says which version it has."""
    names_tokens: bool
    """A reply says of every token which weights sampled it, so that weights may change under a running request."""
    pauses: bool
    """What runs has to be put aside first; else an update waits until nothing is left, or takes care itself."""
    flushes: bool
    """Keys and values of the old weights are thrown away because the update says so; else always."""
    opens: bool = False
    """Tensors are taken between a beginning and an end alone."""
    takes_tensors: bool = False
    """Weights may come in the request."""
    ranks: int = 1
    """Tensor-parallel ones, each of which takes its own copy of such tensors."""
    groups: bool = False
    """It joins process groups: one server is `ranks` of one."""
    device: str = "cpu"
    """Torch's name of what it computes on."""


class Call(Struct, frozen=True):
    """One POST."""

    route: str
    body: dict[str, Any] = {}


class Group(Struct, frozen=True, kw_only=True):
    """A process group: the trainer is rank 0, the engines are the others."""

    name: str
    backend: Backend
    host: str
    port: int
    size: int
    """Ranks, the trainer's among them."""


class Update(Struct, frozen=True, kw_only=True):
    """The requests that an update consists of, in the order in which they are sent."""

    version: int
    told_at: str = TOLD_AT
    before: tuple[Call, ...] = ()
    load: Iterable[Call]
    """Made while they are sent: each may be as large as the engine's memory allows."""
    close: tuple[Call, ...] = ()
    """Sent whatever became of the others."""
    after: tuple[Call, ...] = ()
    """Lets what was put aside go on."""
    whole: bool = True
    """A load that fails leaves the old weights, so that requests may go on; else they stay where they are."""


EMBEDDED = Generation(name="the embedded engine", names_tokens=True, pauses=False, flushes=False)


def sglang(version: str, *, ranks: int = 1, copies: int = 1, device: str = "cpu") -> Generation:
    """Return what an SGLang server of that version does; raises ConfigError for one that is too old.

    It has so many tensor-parallel `ranks`, and `copies` of them: pipeline stages times data-parallel replicas. What
    lies between two versions that were seen counts as the older one: that is slower at worst.
    Example: 0.5.13 -> names no tokens; 0.5.23.post1 -> names them.
    """
    numbers = _numbers("SGLang", version, OLDEST)
    newest = numbers >= NAMES_TOKENS
    return Generation(
        name=f"SGLang {version}",
        names_tokens=newest,
        pauses=newest,
        flushes=True,
        opens=newest,
        takes_tensors=True,
        ranks=ranks,
        # Its ranks in a group are counted by tensor parallelism alone.
        groups=copies == 1,
        device=device,
    )


def vllm(version: str, logprobs_mode: str) -> Generation:
    """Return what a vLLM server of that version does.

    Raises ConfigError for one that is too old, or whose logprobs are not of the distribution that it samples from.
    """
    _numbers("vLLM", version, OLDEST_VLLM)
    if logprobs_mode != "processed_logprobs":
        raise ConfigError(
            f"vLLM with --logprobs-mode {logprobs_mode}: its logprobs are those before the temperature; start it with "
            "--logprobs-mode processed_logprobs"
        )
    return Generation(
        name=f"vLLM {version}", speaks="vllm", told_at=VLLM_TOLD_AT, names_tokens=False, pauses=True, flushes=False
    )


def _numbers(name: str, version: str, oldest: tuple[int, ...]) -> tuple[int, ...]:
    """Return the parts of a version; raises ConfigError for one that is older than those that were seen."""
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", version)
    numbers = tuple(int(part or 0) for part in found.groups()) if found else ()
    if numbers < oldest:
        seen = ".".join(map(str, oldest))
        raise ConfigError(f"{name} {version}: its weight updates are not those of {seen} and newer; upgrade it")
    return numbers


def check(generation: Generation, updates: Updates) -> None:
    """Raise ConfigError where engines of this generation cannot be updated that way."""
    if updates == "in_flight" and not generation.names_tokens:
        raise ConfigError(
            f"engine.updates=in_flight: {generation.name} names one weight version a request, not one a token; set "
            f"engine.updates=drained, or take SGLang {'.'.join(map(str, NAMES_TOKENS))} or newer"
        )


def from_folder(generation: Generation, folder: Path, version: int) -> Update:
    """Return how the weights in a folder, which the engine reads, become `version`.

    SGLang retracts what runs: keys and values are computed anew from the new weights. Left in place they would be a
    mixture that no recomputed logprob agrees with, and stay in the prefix cache for requests to come.
    """
    if generation.speaks == "vllm":
        return _vllm_update(folder, version)
    body: dict[str, Any] = {"model_path": str(folder), "weight_version": str(version)}
    if generation.flushes:
        body["flush_cache"] = True
    before, after = _pause(generation)
    return Update(version=version, before=before, load=(Call("/update_weights_from_disk", body),), after=after)


def from_tensors(generation: Generation, buckets: Iterable[str], version: int) -> Update:
    """Return how weights that travel in the requests become `version`.

    A bucket is some tensors (`tensors.py`); every rank takes all of them. The last bucket brings the version and throws
    away the old keys and values. What fails in the middle leaves parts of two versions: requests then stay
    aside until a whole update follows.
    """
    bodies = ({"serialized_named_tensors": [bucket] * generation.ranks} for bucket in buckets)
    return _in_parts(generation, "/update_weights_from_tensor", bodies, version)


def _in_parts(generation: Generation, route: str, bodies: Iterable[dict[str, Any]], version: int) -> Update:
    before, after = _pause(generation)
    if generation.opens:
        before += (Call("/begin_weight_update", {}),)
    close = (Call("/end_weight_update", {}),) if generation.opens else ()
    load = _loads(route, bodies, version)
    return Update(version=version, before=before, load=load, close=close, after=after, whole=False)


def group_backend(generations: Sequence[Generation]) -> Backend:
    """Return what a process group of such engines communicates with; raises ConfigError where there can be none."""
    for generation in generations:
        if not generation.groups:
            raise ConfigError(
                f"engine.publication=broadcast: {generation.name} cannot join a process group with pipeline stages or "
                "data-parallel replicas (pp-size, dp-size); use disk, or tensors"
            )
    devices = {generation.device for generation in generations}
    if devices == {"cpu"}:
        return "gloo"
    if devices == {"cuda"}:
        return "nccl"
    raise ConfigError(
        f"engine.publication=broadcast: engines compute on {', '.join(sorted(devices))}; a group has CPUs alone, or "
        "NVIDIA GPUs alone: use disk, or tensors"
    )


def joining(group: Group, offset: int) -> Call:
    """Return what lets an engine join; its ranks begin at `offset`."""
    body = {"master_address": group.host, "master_port": group.port, "rank_offset": offset, "world_size": group.size}
    return Call("/init_weights_update_group", {**body, "group_name": group.name, "backend": group.backend})


def leaving(group: Group) -> Call:
    """Return what lets an engine leave."""
    return Call("/destroy_weights_update_group", {"group_name": group.name})


def from_group(generation: Generation, group: Group, portions: Iterable[Portion], version: int) -> Update:
    """Return how weights that are sent to a process group, portion by portion, become `version`; else as from tensors.

    Each request is answered once the engine has what the trainer sends (`sending.py`) meanwhile.
    """
    bodies = ({**_described(portion), "group_name": group.name} for portion in portions)
    return _in_parts(generation, "/update_weights_from_distributed", bodies, version)


def _described(portion: Portion) -> dict[str, Any]:
    return {
        "names": [stored.name for stored in portion],
        "dtypes": [stored.dtype for stored in portion],
        "shapes": [list(stored.shape) for stored in portion],
        "load_format": "flattened_bucket",
    }


def _vllm_update(folder: Path, version: int) -> Update:
    """Return the same for vLLM, of which nothing may be asked meanwhile; the pause also empties its prefix cache."""
    reload: dict[str, Any] = {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}}
    return Update(
        version=version,
        told_at=VLLM_TOLD_AT,
        before=(Call("/pause?mode=wait"),),
        load=(Call("/collective_rpc", reload), Call("/update_weight_version", {"new_version": str(version)})),
        after=(Call("/resume"),),
        whole=False,
    )


def _loads(route: str, bodies: Iterable[dict[str, Any]], version: int) -> Iterator[Call]:
    coming = iter(bodies)
    body = next(coming)
    for following in coming:
        yield Call(route, {**body, "flush_cache": False})
        body = following
    yield Call(route, {**body, "flush_cache": True, "weight_version": str(version)})


def _pause(generation: Generation) -> tuple[tuple[Call, ...], tuple[Call, ...]]:
    """Return what puts requests aside, and what lets them go on."""
    if not generation.pauses:
        return (), ()
    return (Call("/pause_generation", {"mode": "retract"}),), (Call("/continue_generation", {}),)
