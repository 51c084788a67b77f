"""Which sampling parameters change the distribution that logprobs are of, beyond temperature.

Pure. `top_p`, `top_k` and `min_p` are not among them: engines report logprobs before they cut.
"""

from collections.abc import Mapping
from typing import Any

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "min_new_tokens": (0,),
    "logit_bias": ({},),
    "json_schema": (),
    "regex": (),
    "ebnf": (),
    "structural_tag": (),
}
"""By SGLang's names: the values, besides none, under which nothing changes."""


def altered(sampling: Mapping[str, Any]) -> list[str]:
    """Return the parameters in force that a trainer cannot recompute logprobs under, in order of name.

    Example: {"temperature": 0.7, "top_p": 0.9, "presence_penalty": 0.5, "repetition_penalty": 1.0} -> presence_penalty
    """
    set_ = (name for name in NEUTRAL if sampling.get(name) is not None)
    return sorted(name for name in set_ if sampling[name] not in NEUTRAL[name])
