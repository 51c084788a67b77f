"""Does what would be trained hold what was sampled, each token in one place and nowhere else?

Pure. Compares the engine's own record with a trajectory as ingest's HTTP API gives it.
"""

import json
from array import array
from collections import Counter
from typing import Any

from agents_glass import Exchange
from msgspec import Struct


class Sampled(Struct, frozen=True):
    """One completion, as the engine answered it."""

    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    logprobs: tuple[float, ...]
    """In single precision."""


def sampled(exchange: Exchange) -> Sampled:
    """Read an exchange with `/generate`, plain or streamed."""
    asked = json.loads(exchange.body)
    if asked["stream"]:
        events = [line[5:].strip() for line in exchange.answer.split(b"\n") if line.startswith(b"data:")]
        assert events[-1] == b"[DONE]", events[-1]
        answered = json.loads(events[-2])
    else:
        answered = json.loads(exchange.answer)
    pairs = answered["meta_info"]["output_token_logprobs"]
    assert [pair[1] for pair in pairs] == answered["output_ids"]
    return Sampled(
        tuple(asked["input_ids"]), tuple(answered["output_ids"]), tuple(array("f", [pair[0] for pair in pairs]))
    )


def faults(completions: list[Sampled], trajectory: dict[str, Any]) -> list[str]:
    """Say what is wrong with a trajectory; nothing where every completion stands in it once, and nothing else does."""
    found: list[str] = []
    for completion, times in Counter(completions).items():
        places = [place for sequence in trajectory["sequences"] if (place := _stands(completion, sequence))]
        if len(places) != times:
            found.append(f"{len(completion.completion)} tokens stand in {len(places)} sequences, not in {times}")
    trained = sum(sum(sequence["loss_mask"]) for sequence in trajectory["sequences"])
    total = sum(len(completion.completion) for completion in completions)
    if trained != total:
        found.append(f"{trained} tokens would be trained, {total} were sampled")
    return found


def _stands(completion: Sampled, sequence: dict[str, Any]) -> bool:
    """Whether a sequence begins with the completion's prompt, goes on with its tokens, and trains them."""
    start, end = len(completion.prompt), len(completion.prompt) + len(completion.completion)
    return (
        tuple(sequence["ids"][:end]) == completion.prompt + completion.completion
        and sequence["loss_mask"][start:end] == [1] * (end - start)
        and tuple(array("f", sequence["logprobs"][start:end])) == completion.logprobs
    )
