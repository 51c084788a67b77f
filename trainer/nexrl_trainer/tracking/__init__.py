"""Trackers: TensorBoard, W&B and MLflow, told of every line of metrics.jsonl. A new one is one file beside these."""

from nexrl_trainer.tracking.trackers import Trackers

__all__ = ["Trackers"]
