"""Fixtures: model directories, and a proxy with everything real but the model."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from families import FAMILIES
from proxy_world import World, world_of
from tiny_models import build_model


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    built: dict[str, Path] = {}

    def of(template: str) -> Path:
        if template not in built:
            built[template] = build_model(tmp_path_factory.mktemp("models") / template, template)
        return built[template]

    return of


@pytest.fixture(scope="session")
def model_of(model_dir: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the model directory of a family, or of a tiny template that is none's."""
    built: dict[str, Path] = {}

    def of(name: str) -> Path:
        if name not in FAMILIES:
            return model_dir(name)
        if name not in built:
            built[name] = FAMILIES[name].build(tmp_path_factory.mktemp("families") / name)
        return built[name]

    return of


@pytest.fixture
async def world(model_dir: Callable[[str], Path], tmp_path: Path) -> AsyncIterator[World]:
    async with world_of(model_dir("chatml"), tmp_path / "spool") as made:
        yield made
