"""How many examples a property is tried with: few in a quick run, `NEXRL_EXAMPLES` times as many in a thorough one."""

import os

from hypothesis import HealthCheck, Phase, settings

TIMES = int(os.environ.get("NEXRL_EXAMPLES", "1"))


def examples(count: int, *, shrink: bool = True) -> settings:
    """Return settings; without `shrink` a failing example is shown as it was found, where it is but a seed."""
    phases = [phase for phase in Phase if shrink or phase not in (Phase.shrink, Phase.explain)]
    return settings(max_examples=count * TIMES, deadline=None, suppress_health_check=list(HealthCheck), phases=phases)
