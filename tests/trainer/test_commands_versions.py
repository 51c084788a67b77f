"""`nexrl --version` and `nexrl-train --version`: what is installed, for people who report what went wrong."""

from importlib.metadata import version

import pytest
from typer.testing import CliRunner

from nexrl.cli import build
from nexrl_trainer.cli import app


@pytest.mark.parametrize("command", [build(["--version"]), app], ids=["nexrl", "nexrl-train"])
def test_a_command_tells_the_version_that_is_installed(command):
    done = CliRunner().invoke(command, ["--version"])
    assert (done.exit_code, done.stdout) == (0, f"nexrl {version('nexrl')}\n")
