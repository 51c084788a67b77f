"""MLflow: one MLflow run for the whole of a run, through its client alone, which keeps no global state."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from nexrl.errors import ConfigError
from nexrl_trainer.directory import RunDirectory
from nexrl_trainer.recipe import Recipe

PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
"""MLflow's own would keep a run with a mistyped address waiting for minutes."""


def start(recipe: Recipe, directory: RunDirectory, shown: dict[str, Any], identity: str | None) -> "MlflowRun":
    """Start or resume the MLflow run; raises ConfigError where the server cannot be used."""
    del directory
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    config = recipe.trackers.mlflow
    assert config is not None
    try:
        client: Any = MlflowClient(tracking_uri=config.uri)
        if identity is None:
            run = client.create_run(_experiment(client, config.experiment), run_name=recipe.name)
            identity = str(run.info.run_id)
            client.log_text(identity, yaml.safe_dump(shown, sort_keys=False), "recipe.yaml")
        else:
            client.update_run(identity, status="RUNNING")
    except MlflowException as error:
        raise ConfigError(f"trackers.mlflow.uri={config.uri}: {error}; is the server running?") from error
    return MlflowRun(client, identity)


class MlflowRun:
    """An MLflow run as a `Tracker`."""

    def __init__(self, client: Any, identity: str) -> None:
        self.identity = identity
        self._client = client

    def log(self, step: int, measures: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = time.time_ns() // 1_000_000
        points = [Metric(name, value, now, step) for name, value in measures.items()]
        self._client.log_batch(self.identity, metrics=points)

    def close(self, picture: Path | None, *, completed: bool) -> None:
        if picture:
            self._client.log_artifact(self.identity, str(picture))
        self._client.set_terminated(self.identity, "FINISHED" if completed else "KILLED")


def _experiment(client: Any, name: str) -> str:
    """Return the experiment's id, made where there is none of its name."""
    found = client.get_experiment_by_name(name)
    return found.experiment_id if found else client.create_experiment(name)
