"""What the train service eats: datums, dealt into minibatches, each token with the weight it counts in its minibatch.

Pure. What becomes a datum is `selection.py`'s to decide; how a minibatch is laid out for the model `packing.py`'s.
"""

from collections.abc import Sequence

from msgspec import Struct, structs

from nexrl.records import Float32s, Int32s
from nexrl_trainer.algorithms.normalising import token_weights


class Datum(Struct, frozen=True, kw_only=True):
    """One sequence and what each of its tokens is worth. All arrays have the same length T."""

    ids: Int32s
    """int32 [T]"""
    loss_mask: Int32s
    """int32 [T], 1 where the token is trained. The first token never is: nothing predicts it."""
    logprobs: Float32s
    """float32 [T], the engine's, read where the mask is 1."""
    temperatures: Float32s
    """float32 [T]"""
    weight_versions: Int32s
    """int32 [T], -1 where nothing was sampled."""
    advantages: Float32s
    """float32 [T], read where the mask is 1."""
    weights: Float32s
    """float32 [T], what each token counts, read where the mask is 1: the loss is the weighted sum."""
    proximal: Float32s | None = None
    """float32 [T], the trainer's logprobs before the step's first update; None where the current ones stand for it."""
    reference: Float32s | None = None
    """float32 [T], logprobs under the reference policy."""
    teacher: Float32s | None = None
    """float32 [T], logprobs under the teacher."""
    session: str
    """The attempt it came from: datums of one rollout have the same."""
    policy: str = ""
    """The model that sampled it, and learns from it: see `Call.policy`."""

    @property
    def trained_tokens(self) -> int:
        return sum(self.loss_mask)


def minibatches(datums: Sequence[Datum], count: int) -> list[list[Datum]]:
    """Deal whole rollouts into at most `count` parts with about equal numbers of trained tokens.

    A rollout is never split over two optimizer steps. Largest first into the smallest part, so the result depends on
    the datums alone.
    """
    sessions: dict[str, list[Datum]] = {}
    for datum in datums:
        sessions.setdefault(datum.session, []).append(datum)
    parts: list[list[Datum]] = [[] for _ in range(min(count, len(sessions)))]
    loads = [0] * len(parts)
    for members in sorted(sessions.values(), key=lambda items: -sum(item.trained_tokens for item in items)):
        smallest = loads.index(min(loads))
        parts[smallest] += members
        loads[smallest] += sum(item.trained_tokens for item in members)
    return parts


def weighed(batch: Sequence[Datum], normalisation: str, constant: int | None = None) -> list[Datum]:
    """Return a minibatch with the weight of each trained token, so that the loss of each model is a plain sum.

    What one model learns from counts as it would if it were alone. Models stand one after the other in what is
    returned, each with its datums in their order.
    """
    made: list[Datum] = []
    for policy in dict.fromkeys(datum.policy for datum in batch):
        own = [datum for datum in batch if datum.policy == policy]
        lengths = [datum.trained_tokens for datum in own]
        weights = token_weights(lengths, [datum.session for datum in own], normalisation, constant)
        made += [
            structs.replace(datum, weights=Float32s(weight * flag for flag in datum.loss_mask))
            for datum, weight in zip(own, weights, strict=True)
        ]
    return made
