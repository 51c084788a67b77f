"""For all tests: names of parametrized cases are the same in every process, or the workers collect different tests."""

from typing import Any


def pytest_make_parametrize_id(val: Any) -> str | None:
    """Name bytes by their number: what compresses them puts the time into them."""
    return f"{len(val)} bytes" if isinstance(val, bytes) else None
