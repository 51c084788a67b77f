"""Process groups on one machine, over real Gloo: engines that take part as SGLang does, and a sender in a process."""

import asyncio
import multiprocessing
from datetime import timedelta

import torch
import torch.distributed as dist
from scripted_fleet import ScriptedEngine

from nexrl.errors import ServiceError
from nexrl_trainer.engines.sending import GroupSender

PATIENCE_S = 20.0
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([GroupSender.__module__])


class ProcessSender:
    """`broadcast.Sender` in a process of its own, without Ray."""

    def __init__(self):
        self._pipe, theirs = PROCESSES.Pipe()
        self._process = PROCESSES.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        self.ended = False

    async def open(self, engines):
        return await self.ask("open", engines)

    async def join(self, group):
        await self.ask("join", group)

    async def send(self, portions):
        await self.ask("send", portions)

    async def end(self):
        self.ended = True
        self._process.kill()

    async def ask(self, method, argument):
        self._pipe.send((method, argument))
        try:
            error, answer = await asyncio.to_thread(self._pipe.recv)
        except EOFError:
            error = "the process that sends weights died"
        if error:
            raise ServiceError(error)
        return answer


def _serve(pipe):
    sender = GroupSender(patience_s=PATIENCE_S)
    while True:
        method, argument = pipe.recv()
        try:
            pipe.send((None, getattr(sender, method)(argument)))
        except RuntimeError as error:
            pipe.send((str(error), None))


class Peer:
    """One rank of an engine: joins, and takes what is broadcast."""

    def __init__(self, host, port, rank, size, name):
        patience = timedelta(seconds=PATIENCE_S)
        store = dist.TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=patience)
        for prefix in (name, f"{name}/", "cpu/"):
            store = dist.PrefixStore(prefix, store)
        self.group = dist.ProcessGroupGloo(store, rank, size, patience)

    def take(self, names, dtypes, shapes):
        """Return tensors that come as one row of bytes."""
        kinds = [getattr(torch, dtype) for dtype in dtypes]
        sizes = [torch.Size(shape).numel() * kind.itemsize for shape, kind in zip(shapes, kinds, strict=True)]
        row = torch.empty(sum(sizes), dtype=torch.uint8)
        options = dist.BroadcastOptions()
        options.rootRank = 0
        self.group.broadcast([row], options).wait()
        parts = zip(names, row.split(sizes), kinds, shapes, strict=True)
        return {name: part.view(kind).reshape(shape) for name, part, kind, shape in parts}


class JoiningEngine(ScriptedEngine):
    """Keeps what every rank of it was sent, under the version that came last."""

    def __init__(self, name, journal):
        super().__init__(name, journal)
        self.ranks_in_group = 1
        self.peers = []
        self.held = []

    async def answer(self, request):
        reply = await super().answer(request)
        if not self.runner:
            self.peers = []
        elif reply.status == 200:
            try:
                await self.act(request.path.strip("/"), await request.json())
            except RuntimeError as error:
                return self.refusal(f"Failed to receive weights: {error}")
        return reply

    async def act(self, route, body):
        if route == "init_weights_update_group":
            address = (body["master_address"], body["master_port"])
            offset, size, name = body["rank_offset"], body["world_size"], body["group_name"]
            ranks = range(offset, offset + self.ranks_in_group)
            self.peers = await self.each(lambda rank: Peer(*address, rank, size, name), ranks)
            self.held = [{} for _ in ranks]
        elif route == "update_weights_from_distributed":
            described = body["names"], body["dtypes"], body["shapes"]
            parts = await self.each(lambda peer: peer.take(*described), self.peers)
            for held, part in zip(self.held, parts, strict=True):
                held.update(part)
        elif route == "destroy_weights_update_group":
            self.peers = []

    async def each(self, do, things):
        return await asyncio.gather(*(asyncio.to_thread(do, thing) for thing in things))
