"""Every example is an agent as people write it, with a recipe that reads and a page of three lines."""

import re
from pathlib import Path

import pytest

from nexrl.errors import ConfigError
from nexrl_trainer.inputs import read
from nexrl_trainer.recipe import load_recipe

EXAMPLES = Path(__file__).parents[2] / "examples/agents"
RECIPES = sorted(EXAMPLES.glob("*/recipe.yaml"))
AGENTS = sorted([*EXAMPLES.glob("*/agent.*"), *EXAMPLES.glob("*/environment.py")])
FOLDERS = sorted({path.parent for path in AGENTS})


def of(paths):
    return {"argvalues": paths, "ids": [str(path.relative_to(EXAMPLES)) for path in paths]}


def test_there_are_examples():
    assert len(RECIPES) >= 8
    assert {path.parent for path in RECIPES} < set(FOLDERS)


@pytest.mark.parametrize("path", **of(AGENTS))
def test_an_agent_does_not_know_of_nexrl(path):
    assert "nexrl" not in path.read_text().lower()


@pytest.mark.parametrize("path", **of(RECIPES))
def test_an_examples_recipe_decodes_and_its_files_are_there(path):
    given = load_recipe(path, environment={})
    assert given.name == path.parent.name
    played = given.agent.environment
    assert bool(read(given).rewards) != bool(played)
    [script] = [played.partition(":")[0]] if played else [item for item in given.agent.command if "/agent." in item]
    assert given.resolve(script) in AGENTS


def test_a_misspelt_key_in_an_examples_recipe_is_noticed(tmp_path):
    broken = tmp_path / "recipe.yaml"
    broken.write_text(f"extends: {RECIPES[0]}\nrolouts: {{group_size: 4}}\n")
    with pytest.raises(ConfigError, match="rolouts"):
        load_recipe(broken, environment={})


@pytest.mark.parametrize("path", **of(RECIPES))
def test_what_an_example_needs_is_pinned_to_the_version(path):
    given = load_recipe(path, environment={})
    needs_python = any(".venv/bin/python" in item for item in given.agent.command or ())
    requirements = path.with_name("requirements.txt")
    assert requirements.is_file() == needs_python
    lines = requirements.read_text().splitlines() if needs_python else []
    pinned = r"[\w.-]+==[\w.!+-]+|[\w.-]+ @ git\+https://[\w./-]+@[0-9a-f]{40}"
    assert [line for line in lines if not re.fullmatch(pinned, line)] == []
    assert path.with_name("package.json").is_file() == path.with_name("package-lock.json").is_file()


@pytest.mark.parametrize("folder", **of(FOLDERS))
def test_an_examples_page_is_three_lines_start_point_and_reward(folder):
    page = (folder / "README.md").read_text()
    assert re.findall(r"^- \*\*(\w+)\*\*: .+$", page, re.MULTILINE) == ["Start", "Point", "Reward"]


def test_the_table_of_examples_names_every_one():
    linked = set(re.findall(r"\]\(([\w-]+)/README\.md\)", (EXAMPLES / "README.md").read_text()))
    assert linked == {folder.name for folder in FOLDERS}
