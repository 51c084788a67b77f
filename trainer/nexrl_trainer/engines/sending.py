"""Rank 0 of a process group that engines join: sends them published tensors over Gloo or NCCL.

What blocks here blocks until every engine takes part, so it runs in a process of its own that can be ended
(`services/sender.py`). Who takes part and when is `broadcast.py`'s. What arrives over the network is never interpreted.
"""

import socket
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import torch
import torch.distributed
from torch import Tensor

from nexrl.errors import ConfigError
from nexrl_trainer.engines.generations import Group
from nexrl_trainer.engines.layout import Portion
from nexrl_trainer.engines.tensors import read
from nexrl_trainer.recipe.engine import LOOPBACK

PATIENCE_S = 300.0
"""Engines that have not come, or have not taken a portion, in this time will not."""
dist: Any = torch.distributed
"""Its stubs lack much of what it documents."""
_DEVICES = {"gloo": "cpu", "nccl": "cuda"}
"""Where tensors lie that each backend sends; torch also files its keys under this."""


class GroupSender:
    """Sends to the engines of one group; each method blocks, and raises RuntimeError where engines are lost."""

    def __init__(self, *, patience_s: float = PATIENCE_S) -> None:
        self._patience = timedelta(seconds=patience_s)
        self._store: Any = None
        self._group: Any = None
        self._device = "cpu"

    def open(self, engines: Sequence[str]) -> tuple[str, int]:
        """Listen for engines at these URLs, and return the address at which they find us."""
        host = reachable_by(engines)
        listening = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        port = listening.getsockname()[1]
        self._store = dist.TCPStore(
            host,
            port,
            is_master=True,
            wait_for_workers=False,
            timeout=self._patience,
            # Our own socket: one that torch opens listens to every network there is.
            master_listen_fd=listening.detach(),
        )
        return host, port

    def join(self, group: Group) -> None:
        """Return once everybody is there, or with NCCL, which connects when something is sent, at once.

        Raises ConfigError where this process has no GPU for it.
        """
        assert self._store, "`open` comes first"
        self._device = _DEVICES[group.backend]
        store = self._store
        # As SGLang, and then torch, put what they know of a group around its keys.
        for prefix in (group.name, f"{group.name}/", f"{self._device}/"):
            store = dist.PrefixStore(prefix, store)
        if group.backend == "gloo":
            self._group = dist.ProcessGroupGloo(store, 0, group.size, timeout=self._patience)
            return
        if not torch.cuda.is_available():
            raise ConfigError(
                "engine.publication=broadcast: engines on GPUs are sent weights over NCCL, and the trainer has no GPU; "
                "use disk or tensors"
            )
        options = dist.ProcessGroupNCCL.Options()
        # Torch has no other name for it.
        options._timeout = self._patience  # noqa: SLF001
        self._group = dist.ProcessGroupNCCL(store, 0, group.size, options)

    def send(self, portions: Sequence[Portion]) -> None:
        """Send portions one after the other, each as one row of bytes; return once the last one has left."""
        assert self._group, "`join` comes first"
        options = dist.BroadcastOptions()
        options.rootRank = 0
        for portion in portions:
            row = _row(portion).to(self._device)
            self._group.broadcast([row], options).wait()
            if self._device == "cuda":
                torch.cuda.synchronize()


def reachable_by(engines: Sequence[str]) -> str:
    """Return the address of this machine at which engines at these URLs can reach it.

    Example: http://10.0.0.7:30000 -> 10.0.0.2, where packets to 10.0.0.7 would leave from
    """
    hosts = [urlsplit(url).hostname or "" for url in engines]
    far = next((host for host in hosts if host not in LOOPBACK), None)
    if far is None:
        return "127.0.0.1"
    family, kind, _, _, address = socket.getaddrinfo(far, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(address)  # of a datagram socket: nothing is sent
        return probe.getsockname()[0]


def _row(portion: Portion) -> Tensor:
    """Return tensors as uint8 [bytes], one behind the other: SGLang's `flattened_bucket`."""
    return torch.cat([tensor.contiguous().reshape(-1).view(torch.uint8) for _, tensor in read(portion)])
