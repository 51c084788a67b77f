"""When a request is finished. Pure; `scheduler.py` asks after every token."""

from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct

from nexrl_trainer.engines.embedded.wire import SamplingParams

Detokenise = Callable[[Sequence[int]], str]
_MARGIN = 8  # tokens that add no character of their own, or half of one, at the start of the window


class StopRule(Struct, frozen=True):
    token_ids: frozenset[int]
    strings: tuple[str, ...]
    window: int
    """How many of the last tokens can hold a match that the newest token completed."""
    max_new_tokens: int
    min_new_tokens: int = 0

    def barred(self, drawn: int) -> frozenset[int]:
        """Return the tokens that cannot be drawn behind `drawn` others, because they would end the request too soon."""
        return self.token_ids if drawn < self.min_new_tokens else frozenset()


def stop_rule(params: SamplingParams, *, eos: frozenset[int], room: int) -> StopRule:
    """Return the rule for one request; `room` is how many tokens fit behind its prompt."""
    strings = params.stop_strings
    return StopRule(
        token_ids=frozenset() if params.ignore_eos else eos | frozenset(params.stop_token_ids or ()),
        strings=strings,
        # A token is at least one byte, so a match spans at most as many tokens as it has bytes.
        window=max((len(string.encode()) for string in strings), default=0) + _MARGIN,
        max_new_tokens=min(params.max_new_tokens, room),
        min_new_tokens=params.min_new_tokens,
    )


def finish_reason(rule: StopRule, output: Sequence[int], detokenise: Detokenise | None) -> dict[str, Any] | None:
    """Return why a completion that just grew by one token ends here, or None where it goes on."""
    if output[-1] in rule.token_ids:
        return {"type": "stop", "matched": output[-1]}
    if rule.strings and detokenise is not None:
        tail = detokenise(output[-rule.window :])
        for string in rule.strings:
            if string in tail:
                return {"type": "stop", "matched": string}
    if len(output) >= rule.max_new_tokens:
        return {"type": "length", "length": len(output)}
    return None


def abort_reason(message: str) -> dict[str, Any]:
    return {"type": "abort", "message": message}
