"""How many examples a property is tried with: few in a quick run, `NEXRL_EXAMPLES` times as many in a thorough one."""

import os

from hypothesis import HealthCheck, settings

TIMES = int(os.environ.get("NEXRL_EXAMPLES", "1"))


def examples(count: int) -> settings:
    return settings(max_examples=count * TIMES, deadline=None, suppress_health_check=list(HealthCheck))
