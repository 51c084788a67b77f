"""Rows to files. Each file gets its name once it is whole, so that a broken export is never taken for one."""

import json
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol, Self

import msgspec

from nexrl.errors import ConfigError
from nexrl_ingest.commands.rows import Row

ROWS_PER_GROUP = 256
_UNFINISHED = ".part"
_CARD = """---
configs:
- config_name: default
  data_files:
{files}tags:
- nexrl
- reinforcement-learning
---
# {run}

Trajectories of the run `{run}`, captured token for token by NexRL: one row per sequence.

| column | what |
|---|---|
| `ids`, `loss_mask` | token ids; 1 where the token was sampled: what training can learn from |
| `logprobs`, `weight_versions`, `temperatures` | of the sampled tokens; 0, -1 and 1 elsewhere |
| `reward`, `rewards` | the trainer's total; all rewards by name, as JSON |
| `fields`, `messages` | the task's row and the conversation, as JSON |
| `run`, `group`, `rollout`, `session`, `sequence`, `calls`, `agent` | where it comes from |
| `status`, `reason` | how the rollout ended; a failed one without sequences has `sequence` -1 |
"""


class Writer(Protocol):
    """Writes rows into an empty directory, inside `with`."""

    def __init__(self, out: Path, run: str) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def write(self, row: Row) -> None: ...


class JsonlWriter:
    """`trajectories.jsonl`."""

    def __init__(self, out: Path, run: str) -> None:  # noqa: ARG002 - a protocol's signature
        self._path = out / "trajectories.jsonl"
        self._file: IO[bytes]

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = _unfinished(self._path).open("wb")
        return self

    def write(self, row: Row) -> None:
        self._file.write(msgspec.json.encode(row) + b"\n")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        _finish(self._path, whole=kind is None)


class ParquetWriter:
    """`trajectories.parquet`, or another path."""

    def __init__(self, out: Path, run: str) -> None:  # noqa: ARG002 - a protocol's signature
        try:
            import pyarrow as pa
            from pyarrow import parquet
        except ImportError as error:
            raise ConfigError("--format parquet and hf need pyarrow: pip install 'nexrl[export]'") from error
        self.path = out / "trajectories.parquet"
        self._arrow, self._parquet = pa, parquet
        self._rows: list[Row] = []

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._schema = _schema(self._arrow)
        self._file = self._parquet.ParquetWriter(_unfinished(self.path), self._schema, compression="zstd")
        return self

    def write(self, row: Row) -> None:
        self._rows.append(row)
        if len(self._rows) == ROWS_PER_GROUP:
            self._flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        self._file.close()
        _finish(self.path, whole=kind is None)

    def _flush(self) -> None:
        flat = [_flat(row) for row in self._rows]
        self._file.write_table(self._arrow.Table.from_pylist(flat, schema=self._schema))
        self._rows.clear()


class HubWriter:
    """`data/train-....parquet`, `data/test-....parquet` where there are evaluation groups, and a README card."""

    def __init__(self, out: Path, run: str) -> None:
        self._out, self._run = out, run
        ParquetWriter(out, run)
        self._splits: dict[str, ParquetWriter] = {}

    def __enter__(self) -> Self:
        return self

    def write(self, row: Row) -> None:
        split = "test" if row.mode == "eval" else "train"
        if split not in self._splits:
            writer = ParquetWriter(self._out, self._run)
            writer.path = self._out / "data" / f"{split}-00000-of-00001.parquet"
            self._splits[split] = writer.__enter__()
        self._splits[split].write(row)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for writer in self._splits.values():
            writer.__exit__(kind, error, trace)
        if kind is None:
            files = "".join(f"  - split: {split}\n    path: data/{split}-*.parquet\n" for split in sorted(self._splits))
            (self._out / "README.md").write_text(_CARD.format(files=files, run=self._run))


def _flat(row: Row) -> dict[str, Any]:
    """Return a row whose free-form columns are JSON: every row of a column has the same type."""
    values = msgspec.structs.asdict(row)
    return values | {name: json.dumps(values[name]) for name in ("fields", "rewards", "messages")}


def _schema(arrow: Any) -> Any:
    text, numbers = arrow.string(), arrow.list_(arrow.int32())
    floats = arrow.list_(arrow.float32())
    return arrow.schema(
        [
            *((name, text) for name in ("run", "group", "mode", "task", "fields")),
            ("rollout", arrow.int32()),
            *((name, text) for name in ("session", "status", "reason")),
            ("reward", arrow.float64()),
            ("rewards", text),
            ("sequence", arrow.int32()),
            ("agent", text),
            ("policy", text),
            ("calls", arrow.list_(text)),
            ("ids", numbers),
            ("loss_mask", arrow.list_(arrow.int8())),
            ("logprobs", floats),
            ("weight_versions", numbers),
            ("temperatures", floats),
            ("messages", text),
        ]
    )


def _finish(path: Path, *, whole: bool) -> None:
    if whole:
        _unfinished(path).rename(path)
    else:
        _unfinished(path).unlink()


def _unfinished(path: Path) -> Path:
    return path.with_name(path.name + _UNFINISHED)
