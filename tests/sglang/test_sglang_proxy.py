"""Agents' calls through `nexrl proxy` to a real SGLang: what ingest holds afterwards is what the server sampled."""

import asyncio
import contextlib
import json
import shutil
import sys
from pathlib import Path

import pytest
from sglang_models import byte_tokenizer, true_logprobs
from sglang_world import EXACT, Server

from nexrl.keys import attempt_key, new_admin_key
from nexrl_trainer.engines.door import Door
from nexrl_trainer.engines.fleet import Fleet, Member, Weights
from nexrl_trainer.engines.publisher import Publisher
from nexrl_trainer.recipe.engine import Engine
from nexrl_trainer.rollouts.proxy import ProxyClient
from nexrl_trainer.services.process import ServiceProcess

QUESTION = {"role": "user", "content": "Say something about the sea."}
TRIES = 10


class Room:
    """The proxy and ingest beside the server, and agents that call."""

    def __init__(self, server: Server, proxy: str, ingest: str, key: str) -> None:
        self.server, self.url, self.ingest, self.key = server, proxy, ingest, key
        self.proxy = ProxyClient(proxy, key, server.http)

    async def chat(self, attempt: str, messages: list, *, tokens: int = 40):
        headers = {"Authorization": f"Bearer {attempt_key(attempt, self.key)}"}
        body = {"model": "m", "messages": messages, "max_tokens": tokens, "temperature": 0.8}
        async with self.server.http.post(f"{self.url}/v1/chat/completions", json=body, headers=headers) as reply:
            answer = await reply.json()
            assert reply.status == 200, answer
            return answer["choices"][0]["message"]

    async def stream(self, attempt: str, messages: list, *, tokens: int = 40, began=None) -> str:
        headers = {"Authorization": f"Bearer {attempt_key(attempt, self.key)}"}
        body = {"model": "m", "messages": messages, "max_tokens": tokens, "temperature": 0.8, "stream": True}
        said, events = "", 0
        async with self.server.http.post(f"{self.url}/v1/chat/completions", json=body, headers=headers) as reply:
            assert reply.status == 200
            async for line in reply.content:
                if line.startswith(b"data: {"):
                    delta = json.loads(line[6:])["choices"][0]["delta"]
                    said += delta.get("content") or ""
                    events += 1
                    if began and events == 10:
                        began.set()
        return said

    async def stats(self) -> dict:
        headers = {"Authorization": f"Bearer {self.key}"}
        async with self.server.http.get(f"{self.url}/api/stats", headers=headers) as reply:
            return await reply.json()

    async def trajectory(self, attempt: str) -> dict:
        """Return what ingest holds, every sampled token compared with its weights."""
        await self.proxy.flush(attempt)
        headers = {"Authorization": f"Bearer {self.key}"}
        async with self.server.http.get(f"{self.ingest}/api/sessions/{attempt}/trajectory", headers=headers) as reply:
            found = await reply.json()
        assert found["drift"] == []
        for sequence in found["sequences"]:
            self.assert_sampled(sequence)
        return found

    def assert_sampled(self, sequence: dict) -> None:
        ids, versions = sequence["ids"], sequence["weight_versions"]
        for version in {version for version in versions if version is not None}:
            true = [None, *true_logprobs(self.server.folders[version], ids[:1], ids[1:], 0.8)]
            for at, named in enumerate(versions):
                assert (named is None) == (sequence["loss_mask"][at] == 0)
                if named == version:
                    assert sequence["logprobs"][at] == pytest.approx(true[at], abs=EXACT)

    def publisher(self, folder: Path, generation, updates) -> Publisher:
        member = Member(self.server.client, generation, None)
        fleet = Fleet([member], Weights(folder, self.server.version), Door(self.proxy), print)
        return Publisher(fleet, folder, Engine(kind="sglang", updates=updates, verify=True))


class Policy:
    """Has learned something each time it is asked."""

    def __init__(self, server: Server) -> None:
        self.server = server

    async def publish_weights(self, folder: Path) -> None:
        weights = self.server.other_weights()
        for name in ("model.safetensors", "config.json"):
            shutil.copy(weights / name, folder)
        self.server.folders[int(folder.name[1:])] = weights


@pytest.fixture
def room(server: Server, weights, tmp_path):
    key = new_admin_key()
    with contextlib.ExitStack() as stack:

        def started(name: str, *arguments: str) -> str:
            command = [sys.executable, "-m", "nexrl.cli", name, *arguments, "--port", "0", "--exit-with-parent"]
            service = ServiceProcess(name, command, str(tmp_path / f"{name}.log"), {"NEXRL_ADMIN_KEY": key})
            stack.callback(service.stop)
            return service.url()

        ingest = started("ingest", "--data", str(tmp_path / "ingest"))
        known = ["--engine", server.url, "--model", str(weights[0]), "--ingest", ingest, "--require-session"]
        proxy = started("proxy", *known, "--data", str(tmp_path / "proxy"))
        yield Room(server, proxy, ingest, key)


async def test_a_conversation_plain_and_streamed_is_one_sequence_without_drift(room: Room):
    messages = [QUESTION]
    first = await room.chat("talk", messages)
    messages += [first, {"role": "user", "content": "And the land?"}]
    said = await room.stream("talk", messages)
    messages += [{"role": "assistant", "content": said}, {"role": "user", "content": "More."}]
    last = await room.chat("talk", messages)
    [sequence] = (await room.trajectory("talk"))["sequences"]
    text = byte_tokenizer().decode(sequence["ids"])
    assert [text.count(part) for part in ("<|im_start|>user\n", "<|im_start|>assistant\n")] == [3, 3]
    # These models also sample tokens that are no text.
    assert byte_tokenizer().decode(sequence["ids"], skip_special_tokens=True).endswith(last["content"])


async def test_weights_that_change_under_a_stream_are_named_token_by_token(room: Room, tmp_path):
    generation = await room.server.client.generation("sglang")
    publisher = room.publisher(tmp_path / "weights", generation, "in_flight")
    for index in range(TRIES):  # a reply may end by itself before the weights change
        began, old = asyncio.Event(), room.server.version
        talking = asyncio.create_task(room.stream(f"long-{index}", [QUESTION], tokens=300, began=began))
        await asyncio.wait({talking, waiting := asyncio.create_task(began.wait())}, return_when="FIRST_COMPLETED")
        waiting.cancel()
        await publisher.publish(Policy(room.server), old + 1)
        await talking
        [sequence] = (await room.trajectory(f"long-{index}"))["sequences"]
        if {old, old + 1} <= set(sequence["weight_versions"]):
            return
    pytest.fail(f"no reply of {TRIES} saw two weight versions")


async def test_drained_a_call_ends_with_the_weights_it_began_with_and_the_next_has_the_new_ones(room: Room, tmp_path):
    generation = await room.server.client.generation("sglang")
    old = room.server.version
    began = asyncio.Event()
    talking = asyncio.create_task(room.stream("drained", [QUESTION], tokens=200, began=began))
    await asyncio.wait({talking, waiting := asyncio.create_task(began.wait())}, return_when="FIRST_COMPLETED")
    waiting.cancel()
    await room.publisher(tmp_path / "weights", generation, "drained").publish(Policy(room.server), old + 1)
    assert talking.done()
    await room.chat("after", [QUESTION])
    for attempt, version in (("drained", old), ("after", old + 1)):
        [sequence] = (await room.trajectory(attempt))["sequences"]
        assert set(sequence["weight_versions"]) == {None, version}


async def test_a_reply_that_the_server_aborts_goes_on_behind_its_own_tokens(room: Room):
    for index in range(TRIES):  # a reply may end by itself before it is aborted
        began = asyncio.Event()
        talking = asyncio.create_task(room.stream(f"cut-{index}", [QUESTION], tokens=300, began=began))
        await asyncio.wait({talking, waiting := asyncio.create_task(began.wait())}, return_when="FIRST_COMPLETED")
        waiting.cancel()
        await room.server.post("/abort_request", {"rid": "", "abort_all": True})
        await talking
        [sequence] = (await room.trajectory(f"cut-{index}"))["sequences"]
        assert sum(sequence["loss_mask"]) > 0
        if (await room.stats())["resumed"]:
            return
    pytest.fail(f"no reply of {TRIES} was aborted")
