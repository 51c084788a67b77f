"""A trainer's side of a measurement: make a step whenever a line comes in, and say how long it took."""

import json
import resource
import sys
import time
from collections.abc import Callable


def serve(step: Callable[[], float]) -> None:
    """Answer every line of standard input with a step: its seconds, what it returned, and the most memory so far."""
    _say({})
    for _ in sys.stdin:
        began = time.perf_counter()
        value = step()
        seconds = time.perf_counter() - began
        _say({"seconds": seconds, "value": value, "peak_gb": peak_gb()})


def peak_gb() -> float:
    """Return the most memory that this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def _say(what: dict[str, float]) -> None:
    print(json.dumps(what), flush=True)
