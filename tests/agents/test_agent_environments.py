"""What is made on first use is made once, and a failure says what failed."""

import re
import sys

import pytest
from agent_environments import EXAMPLES, InstallError, made, python_from, reachable, run


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


def test_a_framework_that_needs_a_newer_python_says_which_where_there_is_none(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    shim = tmp_path / "python3.19"
    shim.write_text("#!/bin/sh\nexit 127\n")
    shim.chmod(0o755)

    assert python_from((3, 0)) == sys.executable
    with pytest.raises(InstallError, match=r"Python 3\.19 or newer is needed, .*: put python3\.19 on the PATH"):
        python_from((3, 19))


def test_a_newer_python_is_found_by_its_name(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    newer = tmp_path / "python3.20"
    newer.write_text("#!/bin/sh\nexit 0\n")
    newer.chmod(0o755)
    assert python_from((3, 19)) == str(newer)


def test_nexau_comes_from_another_repository_at_the_same_commit_where_one_is_named(monkeypatch, tmp_path):
    listed = (EXAMPLES / "nexau/requirements.txt").read_text()
    monkeypatch.delenv("TEST_NEXAU_REPOSITORY", raising=False)
    assert reachable(listed) == listed

    [commit] = re.findall(r"^nexau @ git\+https://.+@([0-9a-f]{40})$", listed, re.MULTILINE)
    for named, address in ((str(tmp_path), tmp_path.as_uri()), ("ssh://git@host/NexAU", "ssh://git@host/NexAU")):
        monkeypatch.setenv("TEST_NEXAU_REPOSITORY", named)
        assert f"\ngit+{address}@{commit}\n" in reachable(listed)
