"""What all rooms' tests share: what starts whole systems runs last, and a slow machine is no failure.

Names of cases are the same in every process, or the workers of a parallel run collect different tests.
"""

import os
from typing import Any

from hypothesis import settings

EXAMPLES = 50 * int(os.environ.get("NEXRL_EXAMPLES", "1"))
"""Of a property that does not say how many; each run tries others."""

settings.register_profile("patient", deadline=None, max_examples=EXAMPLES)
settings.load_profile("patient")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


def pytest_make_parametrize_id(val: Any) -> str | None:
    """Leave bytes out of names: a time or a random id may be in them."""
    return "bytes" if isinstance(val, bytes) else None
