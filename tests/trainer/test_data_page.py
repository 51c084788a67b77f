"""docs/data.md: every piece of a recipe decodes, and what the page counts is so."""

import re
from pathlib import Path

import msgspec
import pytest
import yaml

from nexrl_trainer.data.mixing import Mixture
from nexrl_trainer.recipe.tasks import Operator, Tasks

PAGE = (Path(__file__).parents[2] / "docs/data.md").read_text()
PARTS = re.findall(r"```yaml part\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("text", PARTS, ids=range(len(PARTS)))
def test_every_piece_of_a_recipe_decodes(text):
    assert msgspec.convert(yaml.safe_load(text)["tasks"], Tasks).sources


def test_the_page_names_every_operator():
    assert all(f"`{operator}`" in PAGE for operator in Operator.__args__)


def test_each_four_groups_are_as_the_page_says():
    mixture = Mixture([1, 3])
    turns = ["easy" if mixture.turn(number)[0] == 0 else "hard" for number in range(12)]
    assert turns == ["hard", "easy", "hard", "hard"] * 3
    assert "each four groups are hard, easy, hard, hard" in PAGE
