"""A directory of Hugging Face datasets: what `save_to_disk` writes, or Parquet files as the Hub holds them.

Read with pyarrow: `datasets` itself would bring pandas and a cache of its own. `save_to_disk` writes Arrow streams,
which `state.json` names; of several splits one folder each, which `dataset_dict.json` names. The split of a Parquet
file is what stands before `-00000-of-00001` in its name, else the name of its folder below the directory, else its own.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from nexrl.errors import ConfigError
from nexrl_trainer.data.optional import package
from nexrl_trainer.data.rows import Place, Row
from nexrl_trainer.data.sources import parquet

_SHARD = re.compile(r"(.+?)-\d+-of-\d+")


def read(place: Place) -> Iterator[Row]:
    folder = place.path
    if (folder / "dataset_dict.json").is_file():
        names: list[str] = _json(folder / "dataset_dict.json")["splits"]
        yield from _saved(folder / _chosen(place, names))
    elif (folder / "state.json").is_file():
        state = _json(folder / "state.json")
        _chosen(place, [state.get("_split") or "train"])
        yield from _saved(folder)
    else:
        shards = _shards(folder)
        if not shards:
            raise ConfigError(f"{folder}: neither state.json nor dataset_dict.json nor Parquet files; is it a dataset?")
        for file in shards[_chosen(place, list(shards))]:
            yield from parquet.read(Place(path=file))


def _chosen(place: Place, names: list[str]) -> str:
    if place.split is None and len(names) == 1:
        return names[0]
    if place.split not in names:
        has = ", ".join(sorted(names))
        asked = f"no split {place.split!r}" if place.split else "several splits"
        raise ConfigError(f"{place.path}: {asked}; it has {has}: name one with split:")
    return place.split


def _saved(folder: Path) -> Iterator[Row]:
    arrow = package("pyarrow", "data")
    state = _json(folder / "state.json")
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise ConfigError(f"{folder}: its rows are selected by an index file; save it again after flatten_indices()")
    for file in state["_data_files"]:
        path = folder / file["filename"]
        try:
            with arrow.memory_map(str(path)) as data, arrow.ipc.open_stream(data) as batches:
                yield from parquet.rows_of(_slices(batches), str(path))
        except (arrow.ArrowException, OSError) as error:
            raise ConfigError(f"{path} cannot be read as an Arrow stream: {error}") from error


def _slices(batches: Any) -> Iterator[Any]:
    """Yield batches in parts: one may be the whole file, and all of it would become Python's objects at once."""
    for batch in batches:
        for start in range(0, batch.num_rows, parquet.BATCH_ROWS):
            yield batch.slice(start, parquet.BATCH_ROWS)


def _shards(folder: Path) -> dict[str, list[Path]]:
    """Return Parquet files by split, each split's in the order of their names."""
    found: dict[str, list[Path]] = {}
    for file in sorted(folder.rglob("*.parquet")):
        named = _SHARD.fullmatch(file.stem)
        inside = file.parent != folder
        found.setdefault(named[1] if named else file.parent.name if inside else file.stem, []).append(file)
    return found


def _json(path: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"{path}: {error}; save the dataset again") from error
