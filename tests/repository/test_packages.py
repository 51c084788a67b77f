"""`__all__` is what is public, and the project speaks of itself alone."""

import importlib
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PUBLIC = ["nexrl", "nexrl_trainer.recipe"]
FOREIGN = re.compile(r"\.\./shared|/work/|\bfarm-|(?<!\w)\.library\b", re.IGNORECASE)


def tracked():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout: a source archive has no list of tracked files")
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


@pytest.mark.parametrize("name", PUBLIC)
def test_all_names_what_is_public_and_nothing_is_missing(name):
    module = importlib.import_module(name)
    assert sorted(module.__all__) == sorted(set(module.__all__))
    assert all(hasattr(module, item) for item in module.__all__)


def test_no_file_refers_to_what_lies_outside_the_project():
    this = Path(__file__)
    found = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in tracked()
        if path != this and path.suffix != ".png"
        for match in FOREIGN.finditer(path.read_text(errors="replace"))
    ]
    assert found == []


def test_version_control_holds_no_weights_and_nothing_large():
    assert [path.name for path in tracked() if path.suffix in {".safetensors", ".pt", ".bin", ".gguf"}] == []
    assert [path.name for path in tracked() if path.stat().st_size > 500_000] == []


def test_every_module_says_what_it_is_for():
    silent = [
        str(path.relative_to(ROOT))
        for path in tracked()
        if path.suffix == ".py"
        and path.is_relative_to(ROOT)
        and path.parts[len(ROOT.parts)] in {"agent_sdk", "proxy", "ingest", "trainer", "recipes", "bench", "examples"}
        and not re.match(r'(#!.*\n)?r?"""', path.read_text())
    ]
    assert silent == []
