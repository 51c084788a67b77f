"""Spans that a proxy with another number of workers left behind, brought to where their sessions live now.

Delivery is at least once, so a crash in the middle repeats some of them; ingest knows spans by their id.
"""

from pathlib import Path

from nexrl.errors import ConfigError
from nexrl.records import decode
from nexrl_proxy.recorder import BATCH_BYTES, BATCH_SPANS, Kept
from nexrl_proxy.spool import DEAD_LETTERS, Spool
from nexrl_proxy.workers.pinning import owner_of


def spool_names(workers: int) -> list[str]:
    """Return the directory of each worker's spool; the number of workers is part of it, as it decides who has what."""
    return ["spool"] if workers == 1 else [f"spool-{index}-of-{workers}" for index in range(workers)]


def bring_in(data: Path, workers: int) -> None:
    """Empty the spools of other numbers of workers into those of this one; raises ConfigError where one is in use."""
    names = spool_names(workers)
    others = [path for path in data.glob("spool*") if path.is_dir() and path.name not in names]
    if not others:
        return
    spools = [Spool(data / name) for name in names]
    try:
        for path in others:
            _empty(path, spools)
    finally:
        for spool in spools:
            spool.close()


def _empty(path: Path, spools: list[Spool]) -> None:
    old = Spool(path)
    try:
        while frames := old.peek(frames=BATCH_SPANS, size=BATCH_BYTES):
            for frame in frames:
                _add(spools[owner_of(decode(frame, Kept).session, len(spools))], frame, path)
            old.advance(frames)
    finally:
        old.close()
    if not (path / DEAD_LETTERS).exists():
        (path / "lock").unlink()
        path.rmdir()


def _add(spool: Spool, frame: bytes, source: Path) -> None:
    if not spool.append(frame):
        raise ConfigError(f"{source}: its spans cannot be moved, the disk refuses them; make room and start again")
