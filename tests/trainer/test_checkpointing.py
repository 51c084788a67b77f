"""Checkpoints are written beside the next step; what they hold, and what is acknowledged, is decided before."""

import asyncio

import pytest

from nexrl.errors import ServiceError
from nexrl_trainer.checkpointing import Checkpoints
from nexrl_trainer.directory import RunDirectory, State


class Policy:
    """Copies its weights at once and writes them once it is allowed to."""

    def __init__(self):
        self.weights = "w0"
        self.allowed = asyncio.Event()
        self.error = None

    def save(self, folder):
        return asyncio.ensure_future(self._write(folder, self.weights))

    async def _write(self, folder, weights):
        await self.allowed.wait()
        if self.error:
            raise self.error
        (folder / "weights").write_text(weights)


class Acknowledged:
    """The one door of ingest that is used."""

    def __init__(self):
        self.leases = []

    async def ack(self, leases):
        self.leases += leases


@pytest.fixture
def parts(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/tokenizer.json").write_text("{}")
    return RunDirectory(tmp_path / "run"), Policy(), Acknowledged()


def checkpoints_of(directory, policy, ingest, saved=0):
    return Checkpoints(directory, policy, ingest, models={"": directory.path.parent / "model"}, keep=2, saved=saved)


async def test_a_step_goes_on_while_its_checkpoint_is_written_which_holds_the_weights_of_the_moment(parts):
    directory, policy, ingest = parts
    async with checkpoints_of(*parts) as checkpoints:
        policy.weights = "w1"
        checkpoints.owe(["a", "b"])
        await checkpoints.begin(State(step=1))
        policy.weights = "w2"  # the next step
        checkpoints.owe(["c"])
        await asyncio.sleep(0.02)
        assert (directory.latest(), ingest.leases) == (None, [])
        policy.allowed.set()
        await checkpoints.finish()
        folder, state = directory.latest()
        assert ((folder / "weights").read_text(), state.step, ingest.leases) == ("w1", 1, ["a", "b"])
        assert (folder / "tokenizer.json").is_file()
        await checkpoints.end(State(step=2))
    assert (directory.latest()[1].step, ingest.leases) == (2, ["a", "b", "c"])


async def test_what_went_wrong_with_one_is_told_with_the_next_and_its_groups_are_not_acknowledged(parts):
    directory, policy, ingest = parts
    policy.allowed.set()
    policy.error = ServiceError("the disk is full")
    checkpoints = checkpoints_of(*parts)
    checkpoints.owe(["a"])
    await checkpoints.begin(State(step=1))
    with pytest.raises(ServiceError, match="the disk is full"):
        await checkpoints.begin(State(step=2))
    assert (directory.latest(), ingest.leases) == (None, [])


@pytest.mark.parametrize("also", [None, ServiceError("gone too")])
async def test_a_run_that_breaks_off_finishes_what_is_being_written_and_tells_its_own_error(parts, also):
    directory, policy, _ = parts
    policy.allowed.set()
    policy.error = also

    async def broken_off():
        async with checkpoints_of(*parts) as checkpoints:
            await checkpoints.begin(State(step=1))
            raise ServiceError("the engine ended")

    with pytest.raises(ServiceError, match="the engine ended"):
        await broken_off()
    assert (directory.latest() is None) == (also is not None)


async def test_the_end_of_a_run_saves_only_what_is_not_saved(parts):
    directory, policy, _ = parts
    policy.allowed.set()
    async with checkpoints_of(*parts, saved=3) as checkpoints:
        await checkpoints.end(State(step=3))
        assert directory.latest() is None
        await checkpoints.keep_best(State(step=4))
        assert directory.best.resolve().name == "step-00004"
