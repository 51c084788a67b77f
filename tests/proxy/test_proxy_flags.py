"""The flags of `nexrl proxy`, as its help shows them."""

import inspect
from typing import get_args

import pytest
import typer
from typer.testing import CliRunner

from nexrl_proxy import flags
from nexrl_proxy.serve import proxy


@pytest.fixture
def shown():
    """What `nexrl proxy --help` prints."""
    app = typer.Typer()
    app.command()(proxy)
    result = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "160", "TERM": "dumb"})
    assert result.exit_code == 0
    return result.output


def test_every_flag_is_in_a_group_and_says_what_it_does(shown):
    groups = (flags.ENGINES, flags.REPLIES, flags.CALLERS, flags.PROCESS)
    assert sorted(groups, key=shown.index) == list(groups)
    for name, parameter in inspect.signature(proxy).parameters.items():
        about = get_args(parameter.annotation)[1]
        assert about.help
        assert about.rich_help_panel in groups
        assert f"--{name.replace('_', '-')} " in shown


def refused(data, *flags):
    """What `nexrl proxy` says where it cannot start."""
    app = typer.Typer()
    app.command()(proxy)
    where = ["--engine", "http://127.0.0.1:1", "--model", "/nowhere", "--ingest", "http://127.0.0.1:1"]
    result = CliRunner().invoke(app, [*where, "--data", str(data), *flags])
    assert result.exit_code == 2
    return result


def test_where_the_admin_key_is_made_is_said_and_the_key_is_not(monkeypatch, tmp_path):
    monkeypatch.delenv("NEXRL_ADMIN_KEY", raising=False)
    result = refused(tmp_path)
    assert f"nexrl proxy: NEXRL_ADMIN_KEY is not set: the admin key is kept in {tmp_path}/admin.key;" in result.stderr
    assert (tmp_path / "admin.key").read_text() not in result.output
    monkeypatch.setenv("NEXRL_ADMIN_KEY", "x" * 20)
    assert "admin.key" not in refused(tmp_path).output


@pytest.mark.parametrize("default", ["the client's", "the model directory's name", "no limit", "127.0.0.1", "8000"])
def test_what_a_flag_is_where_nobody_gives_it_is_shown(shown, default):
    assert "default: " + default in shown.replace("(", "")
