"""The recipe: one frozen tree that says what a run is, and how it is read from YAML."""

from nexrl_trainer.recipe.file import load_recipe, set_values_from, to_yaml
from nexrl_trainer.recipe.tree import Recipe

__all__ = ["Recipe", "load_recipe", "set_values_from", "to_yaml"]
