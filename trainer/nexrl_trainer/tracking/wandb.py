"""Weights & Biases: one W&B run for all starts of a run. Sends the measures, the recipe and the reward curve alone."""

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nexrl.errors import ConfigError
from nexrl_trainer.directory import RunDirectory
from nexrl_trainer.recipe import Recipe


def start(recipe: Recipe, directory: RunDirectory, shown: dict[str, Any], identity: str | None) -> "WandbRun":
    """Start or resume the W&B run; raises ConfigError where W&B refuses."""
    import wandb

    config = recipe.trackers.wandb
    assert config is not None
    # What W&B collects by itself would hold the command line, the machine and a diff of whatever repository it is in.
    settings = wandb.Settings(
        console="off",
        disable_git=True,
        host="nexrl",
        save_code=False,
        silent=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_save_requirements=False,
    )
    identity = identity or secrets.token_hex(4)
    try:
        # W&B itself would ask for the key on the terminal.
        if not config.offline and not wandb.login(prompt=False):
            raise ConfigError("trackers.wandb: no key; run `wandb login`, or set trackers.wandb.offline=true")
        run = wandb.init(
            project=config.project,
            entity=config.entity,
            name=recipe.name,
            id=identity,
            resume="allow",
            mode="offline" if config.offline else "online",
            dir=str(directory.path),
            settings=settings,
        )
        run.config.update(shown, allow_val_change=True)
        # W&B's own count of steps cannot go back, as a resumed run does.
        run.define_metric("*", step_metric="step")
    except wandb.Error as error:
        raise ConfigError(f"trackers.wandb: {error}") from error
    return WandbRun(run, identity)


class WandbRun:
    """A W&B run as a `Tracker`."""

    def __init__(self, run: Any, identity: str) -> None:
        self.identity = identity
        self._run = run

    def log(self, step: int, measures: Mapping[str, float]) -> None:
        self._run.log({"step": step, **measures})

    def close(self, picture: Path | None, *, completed: bool) -> None:
        import wandb

        if picture:
            self._run.log({"reward curve": wandb.Image(str(picture))})
        self._run.finish(exit_code=0 if completed else 1)
