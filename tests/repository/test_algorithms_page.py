"""docs/algorithms.md says what the code has: recipes decode, names exist, no family is missing."""

import importlib
import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest
import yaml

from nexrl_trainer.algorithms.advantages import ADVANTAGES
from nexrl_trainer.algorithms.loss import LOSSES
from nexrl_trainer.algorithms.objective import Estimator, LossName
from nexrl_trainer.batches.selection import COUNTED
from nexrl_trainer.recipe.algorithm import AdvantageName, Algorithm, Normalisation
from nexrl_trainer.recipe.part import Part

PAGE = (Path(__file__).parents[2] / "docs/algorithms.md").read_text()
RECIPES = re.findall(r"```yaml part\n(.*?)```", PAGE, re.DOTALL)
ROOMS = {"scoring": "batches", "selection": "batches"}


@pytest.mark.parametrize("text", RECIPES, ids=range(len(RECIPES)))
def test_a_recipe_on_the_page_decodes(text):
    settings = yaml.safe_load(text)
    assert settings.keys() == {"algorithm"}
    assert msgspec.convert(settings["algorithm"], Algorithm).objective


def test_a_setting_that_does_not_exist_would_be_noticed():
    with pytest.raises(msgspec.ValidationError, match="clip_hi"):
        msgspec.convert({"clip_hi": 0.28}, Algorithm)


def test_every_choice_of_the_recipe_has_a_row_of_its_own():
    rows = {cell for line in PAGE.splitlines() for cell in re.findall(r"^\| `(\w+)`", line)}
    choices = {name for kind in (LossName, AdvantageName, Normalisation, Estimator) for name in get_args(kind)}
    assert choices - rows == set()


def test_every_name_of_the_recipe_has_a_function_behind_it():
    assert set(get_args(LossName)) == LOSSES.keys()
    assert set(get_args(AdvantageName)) == {*ADVANTAGES, "distillation"}


def exists(owner, name):
    """Whether `owner.name` is a setting of a part of the algorithm, or stands in a module of that name."""
    part = getattr(Algorithm(), owner, None)
    if isinstance(part, Part) and name in part.__struct_fields__:
        return True
    room = ROOMS.get(owner, "algorithms")
    try:
        return hasattr(importlib.import_module(f"nexrl_trainer.{room}.{owner}"), name)
    except ModuleNotFoundError:
        return False


def test_every_function_and_setting_the_page_names_exists():
    named = {
        (owner, name)
        for owner, name in re.findall(r"`(?:algorithm\.)?([a-z_]+)\.([a-z_0-9]+)(?::[^`]*)?`", PAGE)
        if owner not in {"algorithm", "metrics"}
    }
    assert len(named) > 25
    assert [f"{owner}.{name}" for owner, name in sorted(named) if not exists(owner, name)] == []


@pytest.mark.parametrize(("owner", "name"), [("kl", "k4"), ("filters", "stail"), ("losses", "ppo")])
def test_a_name_that_does_not_exist_would_be_noticed(owner, name):
    assert not exists(owner, name)


def test_every_count_is_on_the_page():
    assert [name for name in COUNTED if f"`{name}`" not in PAGE] == []
