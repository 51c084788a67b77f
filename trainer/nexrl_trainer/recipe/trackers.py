"""The `trackers` part of a recipe: where a run shows how it goes, beside metrics.jsonl. What is sent: `tracking/`."""

from importlib.util import find_spec

from nexrl.errors import ConfigError
from nexrl_trainer.recipe.part import Part


class Wandb(Part, frozen=True, kw_only=True):
    project: str = "nexrl"
    entity: str | None = None
    """User or team; none is the account's own default."""
    offline: bool = False
    """Write to `wandb/` in the run directory and send nothing; `wandb sync` does that later."""


class Mlflow(Part, frozen=True, kw_only=True):
    uri: str
    """The tracking server, `http://host:5000`, or another store that the installed MLflow has."""
    experiment: str = "nexrl"


class Trackers(Part, frozen=True, kw_only=True):
    tensorboard: bool = False
    """Write to `tensorboard/` in the run directory: `tensorboard --logdir runs` shows all runs."""
    wandb: Wandb | None = None
    """Weights & Biases; `{}` with its defaults. The key comes from `wandb login` or WANDB_API_KEY."""
    mlflow: Mlflow | None = None
    """MLflow. Who logs in comes from MLFLOW_TRACKING_USERNAME and the like."""

    def check(self) -> None:
        """Raise ConfigError for a tracker whose package is not installed."""
        for name in self.changed():
            if not find_spec(name):
                raise ConfigError(f"trackers.{name}: it is not installed; pip install 'nexrl[{name}]'")
