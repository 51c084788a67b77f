"""docs/rewards.md: every function on it runs and gives what the page says, every piece of a recipe decodes."""

import re
from pathlib import Path

import msgspec
import pytest
import yaml

from nexrl import Call
from nexrl.rewards import RewardFunction, Rollout, judges, load_rewards
from nexrl.rewards.rollout import GROUP_PARAMETERS, PARAMETERS
from nexrl_trainer.recipe.tree import Recipe

PAGE = (Path(__file__).parents[2] / "docs/rewards.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
PARTS = re.findall(r"```yaml part\n(.*?)```", PAGE, re.DOTALL)
CALL = Call(id="c1", session="s", reply={"tool_calls": [{}]})
GIVEN = {
    "correct": (Rollout(task={"answer": "4"}, answer=" 4"), {"correct": 1}),
    "form": (Rollout(task={}, answer="please"), {"short": 1, "polite": 0.5}),
    "quick": (Rollout(task={}, answer="", duration_s=15), {"quick": 0.75}),
    "used_a_tool": (Rollout(task={}, answer="", calls=[CALL]), {"used_a_tool": 1}),
    "Known": (Rollout(task={}, answer="yes"), {"Known": 1}),
    "patient": (Rollout(task={}, answer=""), {"patient": 1}),
    "shortest": (Rollout(task={}, answer="x"), {"shortest": 1}),
    "same": (Rollout(task={"answer": "Rome"}, answer=" rome"), {"same": 1}),
    "number": (Rollout(task={"answer": "3/4"}, answer="it is 0.75"), {"number": 1}),
    "mathematics": (Rollout(task={"answer": "0.5"}, answer=r"$\frac{1}{2}$"), {"mathematics": 1}),
    "labelled": (Rollout(task={}, answer="So:\nAnswer: 4"), {"labelled": 1}),
    "fields": (Rollout(task={}, answer="{}"), {"fields": 0}),
    "brief": (Rollout(task={}, answer="", calls=[CALL]), {"brief": 1}),
}
ELSEWHERE = {"tests", "programs", "friendly"}
"""They start processes or need an endpoint: test_rewards_judges.py has them."""


@pytest.fixture
def functions(tmp_path):
    found: dict[str, RewardFunction] = {}
    for index, text in enumerate(BLOCKS):
        path = tmp_path / f"block_{index}.py"
        path.write_text(text)
        found |= {function.name: function for function in load_rewards(path)}
    return found


async def test_every_function_on_the_page_gives_what_it_says(functions):
    assert functions.keys() == GIVEN.keys() | ELSEWHERE
    for name, (rollout, rewards) in GIVEN.items():
        [given] = await functions[name].judge([rollout])
        assert {item.name: item.value for item in given} == rewards


@pytest.mark.parametrize("text", PARTS, ids=range(len(PARTS)))
def test_every_piece_of_a_recipe_decodes(text):
    required = {"name": "r", "steps": 1, "model": {"path": "m"}, "tasks": {"train": "t"}, "reward": "reward.py"}
    tree = {**required, "agent": {"command": ["a"]}, **yaml.safe_load(text)}
    assert msgspec.convert(tree, Recipe).rewards.weights


def test_the_tables_name_all_there_is():
    def first_cells(heading):
        section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
        cells = [line.split(" | ")[0] for line in section.splitlines() if line.startswith("| `")]
        return {name for cell in cells for name in re.findall(r"`(\w+)", cell)}

    assert first_cells("What a function may ask for") == set(PARAMETERS)
    assert all(f"`{name}`" in PAGE for name in GROUP_PARAMETERS)
    assert first_cells("Ready-made judges") | {"last_number"} == set(judges.__all__)
    options = first_cells("State, time, and other options")
    assert options == set(RewardFunction.__init__.__kwdefaults__)
