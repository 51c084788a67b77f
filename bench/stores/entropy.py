"""How few bytes ids and logprobs could take, by the entropy of their values one by one.

A token id costs the entropy of its distribution over all ids sent (order 0: no model of language). A logprob is a
float32: its sign, exponent and first 7 bits of mantissa cost the entropy of theirs, the other 16 bits are random and
cost 16. Text, names and the index come on top of this in any store.
"""

import math
from collections import Counter
from collections.abc import Hashable, Iterable

from nexrl.records import Call, pack

RANDOM_BITS = 16


def bytes_per_token(calls: Iterable[Call]) -> float:
    """Return the bound for a token that a call brings: its id, and where it was sampled its logprob."""
    calls = list(calls)
    ids = [id_ for call in calls for id_ in (*call.prompt_delta, *call.completion)]
    packed = b"".join(pack(call.logprobs) for call in calls)
    heads = [packed[place + 2 : place + 4] for place in range(0, len(packed), 4)]
    bits = len(ids) * _entropy(ids) + len(heads) * (_entropy(heads) + RANDOM_BITS)
    return bits / 8 / len(ids)


def _entropy(values: Iterable[Hashable]) -> float:
    """Return bits a value."""
    counts = Counter(values)
    total = counts.total()
    return -sum(count / total * math.log2(count / total) for count in counts.values())
