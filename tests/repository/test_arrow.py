"""Imports follow the arrow, and the light core stays light."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
ROOMS = ("agent_sdk", "proxy", "ingest", "trainer")
HEAVY = {"torch", "ray", "aiohttp", "transformers", "numpy", "google.protobuf", "typer", "asyncio", "ssl"}


def lint_imports(root):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(root / room) for room in ROOMS)}
    command = [
        str(Path(sys.executable).with_name("lint-imports")),
        "--no-cache",
        "--config",
        str(root / "pyproject.toml"),
    ]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


def heavy_modules(statement, path=()):
    code = f"import sys; {statement}; print(*sorted({HEAVY!r} & sys.modules.keys()))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.fixture
def copy(tmp_path):
    for room in ROOMS:
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_imports_follow_the_arrow():
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("agent_sdk/nexrl/records.py", "import nexrl_proxy"),
        ("proxy/nexrl_proxy/serve.py", "import nexrl_ingest"),
        ("ingest/nexrl_ingest/client.py", "import nexrl_trainer"),
        ("trainer/nexrl_trainer/loop.py", "import nexrl_ingest.store"),
        ("trainer/nexrl_trainer/run.py", "import nexrl_proxy.app"),
    ],
)
def test_an_import_against_the_arrow_is_noticed(copy, file, line):
    path = copy / file
    path.write_text(path.read_text() + f"\n{line}\n")
    done = lint_imports(copy)
    assert done.returncode != 0
    assert "BROKEN" in done.stdout


def test_importing_nexrl_loads_nothing_heavy():
    assert heavy_modules("import nexrl") == []


def test_a_run_begins_without_loading_torch():
    assert {"torch", "transformers"}.isdisjoint(heavy_modules("import nexrl_trainer.run"))


def test_a_heavy_import_in_the_core_is_noticed(copy):
    path = copy / "agent_sdk/nexrl/errors.py"
    path.write_text(path.read_text() + "\nimport aiohttp\n")
    assert "aiohttp" in heavy_modules("import nexrl", [copy / "agent_sdk"])
