"""What sampling parameters are in force: the request's, beneath what the deployment forces, above its defaults.

Pure. Agents send temperatures for answering (0, 0.1), and training needs them to explore; evaluation may want others.
"""

from typing import Any

import msgspec
from msgspec import Struct

from nexrl.errors import ConfigError
from nexrl.records import Mode

NAMES = frozenset(
    {
        *("temperature", "top_p", "top_k", "min_p", "max_new_tokens", "stop"),
        *("frequency_penalty", "presence_penalty", "repetition_penalty"),
    }
)
NEUTRAL: dict[str, Any] = {"temperature": 1.0}
"""What nobody has to set."""


class Rule(Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters in SGLang's names; null stands for none."""

    force: dict[str, Any] = {}
    """Whatever the request says."""
    default: dict[str, Any] = {}
    """Where the request says nothing."""


class SamplingPolicy(Struct, frozen=True, forbid_unknown_fields=True):
    """A rule for each mode; everything is passed through where there is none."""

    train: Rule = Rule()
    eval: Rule = Rule()

    def effective(self, asked: dict[str, Any], mode: Mode) -> dict[str, Any]:
        """Return the parameters in force.

        Example: force temperature 1, default top_p 0.9; asked temperature 0 -> temperature 1, top_p 0.9.
        """
        rule = self.eval if mode == "eval" else self.train
        merged = {**NEUTRAL, **rule.default, **asked, **rule.force}
        return {name: value for name, value in merged.items() if value is not None}


def policy_of(text: str) -> SamplingPolicy:
    """Read a policy from JSON; raises ConfigError naming what is wrong.

    Example: `{"train": {"force": {"temperature": 1.0}}, "eval": {"force": {"temperature": 0.6}}}`
    """
    try:
        policy = msgspec.json.decode(text, type=SamplingPolicy)
    except msgspec.DecodeError as error:
        raise ConfigError(f'--sampling: {error}; use {{"train": {{"force": {{"temperature": 1.0}}}}}}') from error
    for mode, rule in (("train", policy.train), ("eval", policy.eval)):
        for name in (*rule.force, *rule.default):
            if name not in NAMES:
                raise ConfigError(f"--sampling: {mode}: {name} is unknown; choose from {', '.join(sorted(NAMES))}")
    return policy
