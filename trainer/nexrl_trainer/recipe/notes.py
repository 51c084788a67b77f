"""What each setting is about: the string that stands below it, in `tree.py` or in the file of its part."""

import ast
import inspect
from functools import lru_cache

from nexrl_trainer.recipe import (
    agent,
    algorithm,
    engine,
    kubernetes,
    model,
    proxy,
    sessions,
    tasks,
    trackers,
    train,
    tree,
)

MODULES = (tree, agent, algorithm, engine, kubernetes, model, proxy, sessions, tasks, train, trackers)


@lru_cache(maxsize=1)
def notes_of_settings() -> dict[tuple[str, str], str]:
    """Return {(class, field): text}; Python itself does not keep these strings."""
    found: dict[tuple[str, str], str] = {}
    for part in (part for module in MODULES for part in ast.parse(inspect.getsource(module)).body):
        if isinstance(part, ast.ClassDef):
            for field, text in zip(part.body, part.body[1:], strict=False):
                if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                    assert isinstance(field.target, ast.Name)
                    assert isinstance(text.value, ast.Constant)
                    found[part.name, field.target.id] = " ".join(str(text.value.value).split())
    return found
