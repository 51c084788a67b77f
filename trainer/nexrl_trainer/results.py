"""What a run came to: its summary on disk, read again where it is asked for no more, and told where it ended early."""

import msgspec
from msgspec import Struct

from nexrl_trainer.directory import RunDirectory
from nexrl_trainer.evaluating import stalled
from nexrl_trainer.files import write_whole
from nexrl_trainer.measuring import several


class Result(Struct, frozen=True, kw_only=True):
    """What `summary.json` says."""

    success_before: float | None
    success_after: float | None
    best_step: int | None
    """The step after which most held-out tasks succeeded: 0 is the model as it was."""
    steps: int
    wall_s: float
    trained_tokens: int
    drift: int
    evaluation_error: str | None = None
    """Why the run ended at an evaluation, after steps that are trained and saved."""


def write_summary(directory: RunDirectory, result: Result) -> None:
    """Write summary.json."""
    write_whole(directory.summary_file, msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")


def unevaluated(error: str, directory: RunDirectory) -> str:
    """Say of a run that ended at an evaluation what it leaves, and what to do."""
    latest = directory.latest()
    assert latest
    folder, state = latest
    return (
        f"{error}\nThe weights after {several(state.step, 'step')} are in {folder}, how the steps went is in "
        f"{directory.summary_file} and {directory.picture}. Once what failed is mended, the same command evaluates "
        "again and goes on"
    )


def not_the_best(result: Result) -> str | None:
    """Say why the model that came out is not known to be better than the one at the start; None where it is."""
    if result.best_step is None:
        return "it is the newest checkpoint: nothing was evaluated"
    if result.best_step == 0:
        return f"it is the newest checkpoint: none did better than the model itself ({result.success_before:.2f})"
    return None


def finished(directory: RunDirectory, steps: int, patience: int | None = None) -> Result | None:
    """Return the result of a run whose newest checkpoint it tells of, where nobody asks for more; else None.

    It is asked for `steps`, or until `patience` is at its end.
    """
    latest = directory.latest()
    if not latest or not directory.summary_file.is_file():
        return None
    result = msgspec.json.decode(directory.summary_file.read_bytes(), type=Result)
    if latest[1].step != result.steps or result.evaluation_error is not None:
        return None
    return result if result.steps >= steps or stalled(directory.metrics(), patience) else None
