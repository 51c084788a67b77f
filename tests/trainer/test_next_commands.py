"""What is printed at a run's end works as it stands, wherever its spans were stored."""

from pathlib import Path

from nexrl_trainer.cli import next_commands
from nexrl_trainer.recipe import load_recipe

RECIPE = """
name: small
steps: 3
model: {path: mine}
sessions: {feedback: {thumbs: 1}}
algorithm: {advantage: reinforce_pp}
"""
ELSEWHERE = """
engine: {url: "http://e:30000"}
proxy: {url: "http://p:8000"}
ingest: {url: "http://i:4318"}
"""
GO_ON = "nexrl-train /runs/small/recipe.yaml --run /runs/small steps=6"


def commands(folder: Path, recipe: str) -> list[str]:
    (folder / "recipe.yaml").write_text(recipe)
    return next_commands(load_recipe(folder / "recipe.yaml"), Path("/runs/small"), steps=3)


def test_a_run_with_its_own_ingest_is_looked_at_in_its_directory(tmp_path):
    assert commands(tmp_path, RECIPE) == ["nexrl sessions /runs/small", "nexrl trajectories /runs/small", GO_ON]


def test_a_run_that_stored_elsewhere_is_looked_at_there_with_the_models_tokenizer(tmp_path):
    assert commands(tmp_path, RECIPE + ELSEWHERE) == [
        "nexrl sessions http://i:4318",
        f"nexrl trajectories http://i:4318 --model {tmp_path / 'mine'}",
        GO_ON,
    ]
