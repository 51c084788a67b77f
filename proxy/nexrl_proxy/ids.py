"""Names for replies, calls and spans: unique, and of no use to guess.

Drawn from a generator that each process seeds once: asking the kernel for every id takes longer than all the rest.
"""

import os
from random import Random

_random = Random(os.urandom(32))  # noqa: S311 - not for secrets
# Workers are forks, and must not count on from the same state.
os.register_at_fork(after_in_child=lambda: _random.seed(os.urandom(32)))


def new_id(digits: int = 24) -> str:
    """Return so many random hexadecimal digits."""
    return f"{_random.getrandbits(4 * digits):0{digits}x}"


def new_span_id() -> str:
    """Return 16 hexadecimal digits that are not all zero, which OpenTelemetry forbids."""
    return f"{_random.randrange(1, 2**64):016x}"
