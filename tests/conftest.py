"""What all rooms' tests share: fast ones come first, the longest of the others next, and a slow machine is no failure.

Names of cases are the same in every process, or the workers of a parallel run collect different tests.
"""

import os
from typing import Any

import pytest
from hypothesis import settings

EXAMPLES = 50 * int(os.environ.get("NEXRL_EXAMPLES", "1"))
"""Of a property that does not say how many; each run tries others."""

settings.register_profile("patient", deadline=None, max_examples=EXAMPLES)
settings.load_profile("patient")


def pytest_collection_modifyitems(items):
    items.sort(key=_turn)


def _turn(item: pytest.Item) -> int:
    """Fast tests first; of the slow ones those of whole runs, or a worker would be left alone with them at the end."""
    if item.get_closest_marker("slow") is None:
        return 0
    return 1 if "end_to_end" in item.path.parts else 2


def pytest_make_parametrize_id(val: Any) -> str | None:
    """Leave bytes out of names: a time or a random id may be in them."""
    return "bytes" if isinstance(val, bytes) else None
