"""What is made on first use is made once, and a failure says what failed."""

import sys

import pytest
from agent_environments import InstallError, made, run


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NEXRL_AGENTS_CACHE", str(tmp_path))


def test_a_folder_is_made_once_and_anew_when_its_source_changes():
    shown = []

    def folder(source):
        return made("thing", source, lambda path: path.mkdir(), shown.append)

    assert folder(b"one") == folder(b"one") != folder(b"two")
    assert len(shown) == 2


def test_an_installation_that_failed_says_so_and_is_tried_anew():
    def fails(folder):
        folder.mkdir()
        run([sys.executable, "-c", "print('no such package'); raise SystemExit(3)"])

    with pytest.raises(InstallError, match="failed with code 3:\n    no such package"):
        made("thing", b"", fails, print)

    assert made("thing", b"", lambda path: path.mkdir(), print).is_dir()
