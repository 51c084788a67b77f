"""Every kind of source, from real files: rows come as they are, and a bad one is named with its place and a remedy."""

import json

import msgspec
import pyarrow as pa
import pytest
from pyarrow import parquet

from nexrl.errors import ConfigError
from nexrl_trainer.data.reading import read_source
from nexrl_trainer.recipe.tasks import Source

ROWS = [{"id": "a", "q": "one", "n": 1}, {"id": "b", "q": "two", "n": 2}]


@pytest.fixture
def tasks(tmp_path):
    def read(path, **settings):
        found = read_source(Source(path=path, **settings), "tasks.train", lambda name: tmp_path / name)
        return [one.task for one in found]

    return read


@pytest.fixture
def refused(tasks):
    def check(message, path, **settings):
        with pytest.raises(ConfigError, match=message):
            tasks(path, **settings)

    return check


def fields(tasks):
    return [task.fields for task in tasks]


def write_saved(folder, *tables, split="train", **state):
    """Write a folder as `datasets.Dataset.save_to_disk` does."""
    folder.mkdir(parents=True)
    names = [f"data-{index:05d}-of-{len(tables):05d}.arrow" for index in range(len(tables))]
    for name, table in zip(names, tables, strict=True):
        with pa.ipc.new_stream(str(folder / name), table.schema) as stream:
            stream.write_table(table)
    described = {"_data_files": [{"filename": name} for name in names], "_split": split, "_fingerprint": "x", **state}
    (folder / "state.json").write_text(json.dumps(described))


def test_a_row_of_json_lines_is_named_by_its_id_or_by_its_line(tasks, tmp_path):
    (tmp_path / "train.jsonl").write_text('{"id": "a", "q": 1}\n\n{"q": 2}\n{"id": 7}')
    assert [(task.id, task.fields) for task in tasks("train.jsonl")] == [
        ("a", {"id": "a", "q": 1}),
        ("train-00003", {"q": 2}),
        ("7", {"id": 7}),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]\n", r"train\.jsonl:1: .*object"),
        ("{}\n{", r"train\.jsonl:2: .*one JSON object a line"),
        ('{"id": null}', "field 'id': None names nothing"),
        ('{"id": true}', "field 'id': True names nothing"),
    ],
)
def test_a_bad_line_is_named(refused, tmp_path, text, message):
    (tmp_path / "train.jsonl").write_text(text)
    refused(message, "train.jsonl")


def test_an_array_of_objects_is_a_source_and_its_bad_items_are_named(tasks, refused, tmp_path):
    path = tmp_path / "train.json"
    path.write_text(json.dumps(ROWS))
    assert fields(tasks("train.json")) == ROWS
    for text, message in [
        ('[{"a": 1}, 2]', r"train\.json, row 2: int '2'; each item must be an object"),
        ('{"a": 1}', r"train\.json: Expected `array`"),
        ("", "is empty"),
    ]:
        path.write_text(text)
        refused(message, "train.json")


def test_the_values_of_csv_and_tsv_are_text_and_lines_are_counted_as_an_editor_does(tasks, refused, tmp_path):
    (tmp_path / "train.csv").write_bytes('\ufeffq,n\r\n"two\nlines, one field",1\r\n\r\nthree,3\r\n'.encode())
    assert [(task.id, task.fields) for task in tasks("train.csv")] == [
        ("train-00002", {"q": "two\nlines, one field", "n": "1"}),
        ("train-00005", {"q": "three", "n": "3"}),
    ]
    (tmp_path / "train.tsv").write_text("q\tn\na,b\t1\n")
    assert fields(tasks("train.tsv")) == [{"q": "a,b", "n": "1"}]
    (tmp_path / "bad.csv").write_text("q,n\na,1\nb,2,3\n")
    refused(r"bad\.csv:3: 3 values for 2 fields \(q, n\); quote", "bad.csv")
    for text, message in [("", "there are none"), ("q,q\n", "two are named 'q'"), ("q,\n", "one has no name")]:
        (tmp_path / "bad.csv").write_text(text)
        refused(message, "bad.csv")
    (tmp_path / "bad.csv").write_bytes(b"q\n\xff\n")
    refused(r"bad\.csv:\d: .*UTF-8", "bad.csv")


def test_columns_of_parquet_are_as_they_are(tasks, refused, tmp_path):
    rows = [{"list": [1, index], "struct": {"a": None}, "n": index / 2} for index in range(1100)]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    read = tasks("train.parquet")
    assert fields(read) == rows
    assert [task.id for task in read] == [f"train-{number:05d}" for number in range(1, 1101)]
    (tmp_path / "train.parquet").write_text("no")
    refused(r"train\.parquet cannot be read as Parquet", "train.parquet")


def test_a_dataset_that_was_saved_to_disk_is_read_shard_by_shard(tasks, refused, tmp_path):
    tables = [pa.Table.from_pylist([{"id": f"{shard}-{row}"} for row in range(1100)]) for shard in range(2)]
    write_saved(tmp_path / "saved", *tables)
    expected = [f"{shard}-{row}" for shard in range(2) for row in range(1100)]
    assert [task.id for task in tasks("saved")] == expected
    assert [task.id for task in tasks("saved", split="train")] == expected
    refused("no split 'test'; it has train", "saved", split="test")
    write_saved(tmp_path / "selected", *tables, _indices_data_files=[{"filename": "indices.arrow"}])
    refused("flatten_indices", "selected")
    (tmp_path / "saved/data-00001-of-00002.arrow").write_text("no")
    refused(r"data-00001-of-00002\.arrow cannot be read", "saved")


def test_a_dataset_of_several_splits_wants_one_named(tasks, refused, tmp_path):
    for split in ("train", "test"):
        write_saved(tmp_path / "saved" / split, pa.Table.from_pylist([{"q": split}]), split=split)
    (tmp_path / "saved/dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert [(task.id, task.fields) for task in tasks("saved", split="test")] == [("saved-test-00001", {"q": "test"})]
    refused("several splits; it has test, train: name one", "saved")


@pytest.mark.parametrize(
    "names",
    [
        ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "data/test-00000-of-00001.parquet"],
        ["train/0000.parquet", "train/0001.parquet", "test/0000.parquet"],
    ],
    ids=["by name", "by folder"],
)
def test_parquet_shards_of_the_hub_belong_to_their_splits(tasks, refused, tmp_path, names):
    for name in names:
        path = tmp_path / "hub" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(pa.Table.from_pylist([{"id": name}]), path)
    assert [task.id for task in tasks("hub", split="train")] == names[:2]
    assert [task.id for task in tasks("hub", split="test")] == names[2:]
    refused("no split 'validation'; it has test, train", "hub", split="validation")
    (tmp_path / "empty").mkdir()
    refused("neither state.json", "empty")


FUNCTIONS = """
def rows(count=2):
    for index in range(count):
        yield {"q": f"question {index}"}

def one_is_no_row():
    return [{"q": 1}, ["q", 2]]

def one_cannot_be_stored():
    return [{"q": 1, "f": open}]

def breaks():
    yield {"q": 1}
    raise OSError("no network")

def nothing(): ...
"""


def test_a_python_function_makes_rows_and_is_called_with_the_options(tasks, refused, tmp_path):
    (tmp_path / "made.py").write_text(FUNCTIONS)
    assert [(task.id, task.fields) for task in tasks("made.py:rows", options={"count": 3}, limit=1)] == [
        ("rows-00001", {"q": "question 0"})
    ]
    for function, message in {
        "one_is_no_row": r"made\.py:one_is_no_row, row 2: .*a dict",
        "one_cannot_be_stored": r"row 1, field 'f': .*use text, numbers",
        "breaks": r"made\.py:breaks raised OSError: no network",
        "nothing": "returned NoneType; return a list of dicts",
        "missing": "has no function 'missing'",
    }.items():
        refused(message, f"made.py:{function}")
    refused("raised TypeError", "made.py:rows", options={"n": 3})
    refused(r"no file .*nowhere\.py", "nowhere.py:rows")


def test_what_a_path_is_can_be_said_where_its_name_does_not(tasks, refused, tmp_path):
    (tmp_path / "train.txt").write_text('{"q": 1}\n')
    assert fields(tasks("train.txt", kind="jsonl")) == [{"q": 1}]
    refused("set kind to one of jsonl, json", "train.txt")
    refused(r"tasks\.train=nowhere\.jsonl: no file", "nowhere.jsonl")
    refused("no directory", "nowhere", kind="dataset")


def test_a_setting_of_another_kind_is_refused(refused, tmp_path):
    (tmp_path / "train.jsonl").write_text("{}")
    refused("jsonl has no split; only dataset has", "train.jsonl", split="train")
    refused("jsonl has no options; only python and reasoning_gym has", "train.jsonl", options={"a": 1})


def test_a_generator_that_is_not_installed_is_refused_with_the_command(refused, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "reasoning_gym.factory", None)
    refused(r"reasoning_gym is not installed: run pip install 'nexrl\[reasoning\]'", "reasoning_gym:chain_sum")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_generated_tasks_are_the_same_every_time_and_their_generator_scores_them(tasks, refused):
    from nexrl.rewards import judges

    made = tasks("reasoning_gym:chain_sum", options={"seed": 5, "size": 4, "max_terms": 3})
    assert made == tasks("reasoning_gym:chain_sum", options={"seed": 5, "size": 4, "max_terms": 3})
    assert made != tasks("reasoning_gym:chain_sum", options={"seed": 6, "size": 4, "max_terms": 3})
    assert [task.id for task in made] == [f"chain_sum-{number:05d}" for number in range(1, 5)]
    # As a reward function sees it: a task that was stored and read back.
    task = msgspec.msgpack.decode(msgspec.msgpack.encode(made[3].fields))
    assert judges.reasoning_gym_score(task["answer"], task) == 1
    assert judges.reasoning_gym_score("no idea", task) == 0
    refused("does not take options=.*colour", "reasoning_gym:chain_sum", options={"colour": 1})
    refused("no such generator; it has .*chain_sum", "reasoning_gym:chain_summ")
