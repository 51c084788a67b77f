"""Every recipe decodes strictly, and every page's commands are commands that exist."""

from pathlib import Path

import pytest

from nexrl.errors import ConfigError
from nexrl_trainer.inputs import read
from nexrl_trainer.recipe import load_recipe

ROOT = Path(__file__).parents[2]
RECIPES = sorted(ROOT.glob("recipes/*/*.yaml"))


def test_there_are_recipes():
    assert ROOT / "recipes/quickstart/recipe.yaml" in RECIPES


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_shipped_recipe_decodes_and_its_files_are_there(path):
    given = read(load_recipe(path, environment={}))
    assert given.tasks
    assert given.rewards


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_misspelt_key_in_a_shipped_recipe_is_noticed(path, tmp_path):
    broken = tmp_path / "recipe.yaml"
    broken.write_text(path.read_text() + "\nrolouts: {group_size: 4}\n")
    with pytest.raises(ConfigError, match="rolouts"):
        load_recipe(broken, environment={})


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_recipe_has_a_page_that_explains_it(path):
    assert (path.parent / "README.md").is_file()
