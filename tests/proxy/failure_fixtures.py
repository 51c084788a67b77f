"""Fixtures of the failure tests: one deployment for all of them, as starting processes is what takes the time."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from failure_world import Deployment, deployed


@pytest.fixture(scope="session")
def shared_deployment(
    model_dir: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    with deployed(model_dir("chatml"), tmp_path_factory.mktemp("deployment")) as made:
        yield made


@pytest.fixture
async def deployment(shared_deployment: Deployment) -> AsyncIterator[Deployment]:
    """Return a deployment that is whole again, and quiet, when the test has ended."""
    shared_deployment.says()
    yield shared_deployment
    for service in shared_deployment.services:
        if not service.runs:
            service.start()
    await shared_deployment.quiet()
