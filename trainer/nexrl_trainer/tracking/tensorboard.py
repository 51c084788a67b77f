"""TensorBoard: event files in the run directory, written with TensorBoard's own writer; no torch, no TensorFlow."""

import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from nexrl_trainer.directory import RunDirectory
from nexrl_trainer.recipe import Recipe

FOLDER = "tensorboard"


def start(recipe: Recipe, directory: RunDirectory, shown: dict[str, Any], identity: str | None) -> "TensorBoard":
    """Open a new event file; a resumed run hides what earlier ones say of steps that it makes again."""
    del recipe
    board = TensorBoard(directory.path / FOLDER)
    if identity is None:
        board.text("recipe", yaml.safe_dump(shown, sort_keys=False))
    else:
        latest = directory.latest()
        board.purge(latest[1].step + 1 if latest else 0)
    return board


class TensorBoard:
    """A folder of event files as a `Tracker`."""

    def __init__(self, folder: Path) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.identity = folder.name
        self._events: Any = event_pb2
        self._summary: Any = summary_pb2.Summary  # pyright: ignore[reportAttributeAccessIssue]
        self._step = 0
        self._writer: Any = EventFileWriter(str(folder))

    def log(self, step: int, measures: Mapping[str, float]) -> None:
        self._step = step
        self._write([self._summary.Value(tag=name, simple_value=value) for name, value in measures.items()])

    def close(self, picture: Path | None, *, completed: bool) -> None:
        del completed
        if picture:
            data = picture.read_bytes()
            # Width and height stand at the head of every PNG.
            width, height = struct.unpack(">II", data[16:24])
            image = self._summary.Image(encoded_image_string=data, width=width, height=height, colorspace=4)
            self._write([self._summary.Value(tag="reward curve", image=image)])
        self._writer.close()

    def text(self, name: str, text: str) -> None:
        """Show a text under a name, as it stands."""
        from tensorboard.compat.proto import tensor_pb2, types_pb2
        from tensorboard.plugins.text.metadata import create_summary_metadata

        tensors: Any = tensor_pb2
        types: Any = types_pb2
        tensor = tensors.TensorProto(dtype=types.DT_STRING, string_val=[f"```\n{text}\n```".encode()])
        metadata = create_summary_metadata(display_name=name, description="")
        self._write([self._summary.Value(tag=name, tensor=tensor, metadata=metadata)])

    def purge(self, step: int) -> None:
        """Hide what was written so far of this step and later ones."""
        session = self._events.SessionLog(status=self._events.SessionLog.START)
        self._writer.add_event(self._events.Event(wall_time=time.time(), step=step, session_log=session))

    def _write(self, values: list[Any]) -> None:
        summary = self._summary(value=values)
        self._writer.add_event(self._events.Event(wall_time=time.time(), step=self._step, summary=summary))
        self._writer.flush()
