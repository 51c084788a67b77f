"""Put several workers together: the port, the directory of their private sockets, and the supervisor."""

import gc
import tempfile
from pathlib import Path

from nexrl.errors import ConfigError
from nexrl.service import announce, run_loop
from nexrl_proxy.listening import bound
from nexrl_proxy.workers.supervisor import Place, Supervisor
from nexrl_proxy.workers.worker import MakeApp, Shared, work

LONGEST_DIRECTORY = 80
"""A socket's path has room for little more than 100 characters."""


def run_workers(workers: int, make: MakeApp, *, at: tuple[str, int], drain_s: float, exit_with_parent: bool) -> int:
    """Serve from several processes until told to stop and return the exit code; raises ConfigError."""
    sockets = bound(*at)
    with tempfile.TemporaryDirectory(prefix="nexrl-proxy-", ignore_cleanup_errors=True) as directory:
        if len(directory) > LONGEST_DIRECTORY:
            raise ConfigError(f"TMPDIR={tempfile.gettempdir()}: too long for sockets to lie there; set a shorter one")
        shared = Shared(workers, sockets, Path(directory), make, drain_s)

        def worker(place: Place) -> None:
            run_loop(work(shared, place))

        gc.freeze()  # what workers share stays shared: collecting would write into every page
        supervisor = Supervisor(
            workers,
            worker,
            announce=lambda: announce(at[0], sockets[0].getsockname()[1]),
            listeners=sockets,
            drain_s=drain_s,
        )
        return supervisor.run(exit_with_parent=exit_with_parent)
