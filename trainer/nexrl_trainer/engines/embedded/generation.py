"""One request while it runs: what the scheduler knows of it, and what a client may see at any moment."""

import random
from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

from msgspec import UNSET

from nexrl_trainer.engines.embedded.stopping import StopRule
from nexrl_trainer.engines.embedded.wire import GenerateReply, GenerateRequest, MetaInfo, VersionSpan


class Generation:
    """Written by the scheduler's thread alone; `reply` may be called from any.

    A token is complete once its weight version stands: readers count versions, and writers append them last.
    """

    def __init__(self, rid: str, request: GenerateRequest, rule: StopRule, notify: Callable[[], object]) -> None:
        self.rid = rid
        self.params = request.sampling_params
        self.stream = request.stream
        self.rule = rule
        self.notify = notify
        """Called from the scheduler's thread when there is news: the end, or any token of a streamed request."""
        self.ids = list(request.input_ids)
        self.prompt_tokens = len(self.ids)
        self.slot: int | None = None
        self.cached = 0
        """How many of `ids` have keys and values in the slot, made by the current weights."""
        self.reused = 0
        self.logprobs: list[float] = []
        self.versions = array("q")
        self.finish: dict[str, Any] | None = None
        self.error: str | None = None
        self._with_logprobs = request.return_logprob
        seed = self.params.sampling_seed
        self._random = None if seed is None else random.Random(seed)  # noqa: S311 - sampling, not secrets

    @property
    def done(self) -> bool:
        return self.finish is not None or self.error is not None

    @property
    def output(self) -> Sequence[int]:
        return self.ids[self.prompt_tokens :]

    def uniform(self, shared: random.Random) -> float:
        """Return the next number in [0, 1): from the request's own seed where it has one."""
        return (self._random or shared).random()

    def append(self, token: int, logprob: float, version: int) -> None:
        self.ids.append(token)
        self.logprobs.append(logprob)
        self.versions.append(version)

    def reply(self, current_version: int) -> GenerateReply:
        """Return everything so far."""
        finish = self.finish  # before the tokens: a finished request gets no more of them
        versions = self.versions[:]
        count = len(versions)
        ids = self.ids[self.prompt_tokens : self.prompt_tokens + count]
        pairs = [(logprob, token, None) for logprob, token in zip(self.logprobs[:count], ids, strict=True)]
        meta = MetaInfo(
            id=self.rid,
            finish_reason=finish,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=count,
            cached_tokens=self.reused,
            weight_version=str(versions[-1] if count else current_version),
            weight_versions=list(version_spans(versions)),
            output_token_logprobs=pairs if self._with_logprobs else UNSET,
        )
        return GenerateReply(ids, meta)


def version_spans(versions: Sequence[int]) -> Iterator[VersionSpan]:
    """Yield runs of equal versions. Example: 4 4 5 -> ("4", 0, 2), ("5", 2, 3)."""
    start = 0
    for version, run in groupby(versions):
        end = start + sum(1 for _ in run)
        yield VersionSpan(str(version), start, end)
        start = end
