"""Fixtures: the rehearsed model, and the processes an agent talks to."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from agent_environments import rehearsed_model
from agents_world import World, world_of


@pytest.fixture(scope="session")
def rehearsed(show: Callable[[str], None]) -> Path:
    return rehearsed_model(show)


@pytest.fixture(scope="session")
def world(rehearsed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world_of(rehearsed, tmp_path_factory.mktemp("world")) as started:
        yield started


@pytest.fixture(scope="session")
def show(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Write a line of progress past pytest's capture: an installation takes minutes."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def line(text: str) -> None:
        with capture.global_and_fixture_disabled():
            sys.stderr.write(f"\n{text}\n")
            sys.stderr.flush()

    return line
