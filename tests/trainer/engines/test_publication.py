"""Weights on their way from a real policy into a real, busy engine: what its replies say is what sampled them."""

import asyncio
import contextlib
import shutil
import threading
from types import SimpleNamespace

import aiohttp
import msgspec
import pytest
import torch
from embedded_world import logprobs_of, serve, true_logprobs
from hypothesis import given, settings
from hypothesis import strategies as st

from nexrl.errors import ConfigError, ServiceError
from nexrl.records import Float32s, Int32s
from nexrl_trainer.algorithms.objective import Objective
from nexrl_trainer.batches.datums import Datum
from nexrl_trainer.directory import RunDirectory
from nexrl_trainer.engines import publication
from nexrl_trainer.engines.fleet import Fleet, Weights
from nexrl_trainer.engines.publication import weights_folder
from nexrl_trainer.engines.publisher import Publisher
from nexrl_trainer.policy.service import Optimizer
from nexrl_trainer.policy.torch_backend import TorchBackend
from nexrl_trainer.recipe.agent import Agent
from nexrl_trainer.recipe.train import Train
from nexrl_trainer.recipe.tree import Engine, Model, Recipe, Tasks

DISK = Recipe(
    name="r",
    steps=3,
    model=Model(path="m"),
    tasks=Tasks(train="t.jsonl"),
    agent=Agent(command=["python", "agent.py"]),
    reward="reward.py",
)
MEMORY = msgspec.structs.replace(DISK, engine=Engine(publication="shared_memory"))
STEP = Optimizer(learning_rate=0.02, betas=(0.9, 0.999), weight_decay=0.0, grad_clip=1.0)


class Policy:
    """A policy that learns something before each publication, and keeps what it published to compare with."""

    def __init__(self, model, kept):
        self.backend = TorchBackend(model, Train(device="cpu"))
        self.kept = kept
        self.torn = False
        self.turn = threading.Lock()

    def learn(self, version):
        ids = torch.randint(3, 300, (20,), generator=torch.Generator().manual_seed(version)).tolist()
        mask = [0] * 5 + [1] * 15
        datum = Datum(
            ids=Int32s(ids),
            loss_mask=Int32s(mask),
            logprobs=Float32s([-5.0] * 20),
            temperatures=Float32s([1.0] * 20),
            weight_versions=Int32s([flag - 1 for flag in mask]),
            advantages=Float32s([1.0 * flag for flag in mask]),
            weights=Float32s([0.1 * flag for flag in mask]),
            session="s",
        )
        self.backend.forward_backward([datum], Objective())
        self.backend.optim_step(STEP)

    async def publish_weights(self, folder):
        if self.torn:
            (folder / "model.safetensors").write_bytes(b"cut off")
        else:
            await asyncio.to_thread(self.publish, folder)

    def publish(self, folder):
        with self.turn:  # one whose caller has left goes on beside the next
            version = int(folder.name[1:])
            self.learn(version)
            self.backend.publish_weights(folder)
            shutil.copytree(folder, self.kept / str(version))


async def publisher_to(client, http, folder, model):
    """Return the publisher to a running engine, and the engine as the trainer talks to it."""
    url = str(client.http._base_url)
    fleet = await Fleet.of({url: None}, DISK.engine, Weights(model, 0), door=None, http=http, say=print)
    return Publisher(fleet, folder, DISK.engine), fleet.members[0].client


class Load:
    """Clients that ask for completions of all lengths, one after the other, as long as it goes on."""

    def __init__(self, client, count):
        self.client, self.replies, self.over = client, [], asyncio.Event()
        self.tasks = [asyncio.create_task(self.ask(index)) for index in range(count)]

    async def ask(self, index):
        while not self.over.is_set():
            prompt = [(7 * index + 3 + len(self.replies)) % 290 + 3] * (5 * index + 1)
            reply = await self.client.generate(prompt, max_new_tokens=20 * index + 5, ignore_eos=True, temperature=0.9)
            self.replies.append((prompt, reply))

    async def end(self):
        self.over.set()
        await asyncio.gather(*self.tasks)
        return self.replies


def assert_whole(reply, prompt, folders):
    """Every token's logprob is that of the version it names, and versions only rise within a reply."""
    spans = [(int(span["version"]), span["start"], span["end"]) for span in reply["meta_info"]["weight_versions"]]
    assert [version for version, _, _ in spans] == sorted({version for version, _, _ in spans})
    assert [start for _, start, _ in spans] == [0, *(end for _, _, end in spans[:-1])]
    assert spans[-1][2] == len(reply["output_ids"])
    for version, start, end in spans:
        expected = true_logprobs(folders[version], prompt, reply["output_ids"], 0.9)[start:end]
        assert logprobs_of(reply)[start:end] == pytest.approx(expected, abs=2e-5)
    return spans


acts = st.lists(st.sampled_from(["publish", "publish", "torn", "leave", "pause"]), min_size=2, max_size=5)


@given(acts)
@settings(max_examples=4)
def test_no_request_sees_half_an_update_whatever_happens_to_publications(tmp_path_factory, weights, acts):
    asyncio.run(play(tmp_path_factory.mktemp("run"), weights[0], acts))


async def play(path, model, acts):
    (path / "kept").mkdir()
    policy, version = Policy(model, path / "kept"), 0
    folders = {0: model}
    with weights_folder(MEMORY, RunDirectory(path), [model]) as folder:
        async with serve(model) as client, aiohttp.ClientSession() as http:
            publisher, engine = await publisher_to(client, http, folder, model)
            load = Load(client, 4)
            for act in acts:
                if act == "pause":
                    await asyncio.sleep(0.02)
                    continue
                version += 1
                policy.torn = act == "torn"
                publishing = asyncio.create_task(publisher.publish(policy, version))
                if act == "leave":
                    await asyncio.sleep(0.03)
                    publishing.cancel()
                with contextlib.suppress(ServiceError, asyncio.CancelledError):
                    await publishing
                    assert act in {"publish", "leave"}
                    assert await engine.version() == str(version)
                    assert [item.name for item in folder.iterdir()] == [f"v{version:06d}"]
                folders[version] = path / "kept" / str(version)
            await load.client.generate([5], max_new_tokens=1)
            for prompt, reply in await load.end():
                assert_whole(reply, prompt, folders)
    assert not folder.exists()


async def test_a_request_runs_through_publications_and_each_token_names_its_weights(tmp_path, weights):
    (tmp_path / "kept").mkdir()
    policy = Policy(weights[0], tmp_path / "kept")
    async with serve(weights[0]) as client, aiohttp.ClientSession() as http:
        publisher, _ = await publisher_to(client, http, tmp_path / "weights", weights[0])
        running = asyncio.create_task(client.generate([7, 8], max_new_tokens=600, ignore_eos=True, temperature=0.9))
        for version in (1, 2):
            await asyncio.sleep(0.1)
            await publisher.publish(policy, version)
        spans = assert_whole(await running, [7, 8], [weights[0], *(tmp_path / "kept" / v for v in "12")])
    assert [version for version, _, _ in spans] == [0, 1, 2]


async def test_weights_that_the_engine_refuses_are_an_error_and_leave_it_as_it_was(tmp_path, weights):
    policy = Policy(weights[0], tmp_path)
    policy.torn = True
    async with serve(weights[0]) as client, aiohttp.ClientSession() as http:
        publisher, engine = await publisher_to(client, http, tmp_path / "weights", weights[0])
        with pytest.raises(
            ServiceError, match=r"refused weight version 1 at /update_weights_from_disk: .*model\.safetensors"
        ):
            await publisher.publish(policy, 1)
        assert await engine.version() == "0"
        assert_whole(await client.generate([7], max_new_tokens=5, temperature=0.9), [7], [weights[0]])


def test_weights_lie_in_the_run_directory_unless_memory_is_asked_for(tmp_path, weights):
    directory = RunDirectory(tmp_path)
    with weights_folder(DISK, directory, [weights[0]]) as folder:
        assert folder == directory.weights


def test_a_folder_in_memory_is_the_runs_own_and_gone_afterwards_even_that_of_a_killed_run(tmp_path, weights):
    directory = RunDirectory(tmp_path)
    with weights_folder(MEMORY, directory, [weights[0]]) as folder:
        assert folder.parent == publication.SHARED_MEMORY
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not folder.exists()
    folder.mkdir()
    (folder / "left behind").touch()
    with weights_folder(MEMORY, directory, [weights[0]]) as again:
        assert again == folder
        assert list(again.iterdir()) == []
    with weights_folder(MEMORY, RunDirectory(tmp_path / "other"), [weights[0]]) as other:
        assert other != folder


def test_weights_that_do_not_fit_in_memory_twice_are_refused_with_the_sizes(tmp_path, weights, monkeypatch):
    count = sum(p.numel() for p in TorchBackend(weights[0], Train(device="cpu")).model.parameters())
    room = 2 * 4 * count
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=room))
    with weights_folder(MEMORY, RunDirectory(tmp_path), [weights[0]]):
        pass
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=room - 1))
    with (
        pytest.raises(ConfigError, match=r"shared_memory: two versions of .* use disk, or make it larger"),
        weights_folder(MEMORY, RunDirectory(tmp_path), [weights[0]]),
    ):
        pass
