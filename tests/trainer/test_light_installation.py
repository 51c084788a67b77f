"""Where an extra is not installed, commands say in a line how to install it."""

import subprocess
import sys

import pytest

WITHOUT = """
import sys
sys.modules[{module!r}] = None  # importing it fails, as where it is not installed
sys.argv = {argv!r}
from {command} import main
main()
"""


def without(module, command, *arguments):
    code = WITHOUT.format(module=module, command=command, argv=["command", *arguments])
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("module", "command", "arguments", "said"),
    [
        ("yaml", "nexrl_trainer.cli", ["a.yaml", "steps=1"], "nexrl-train needs yaml, {remedy} 'nexrl[train]'"),
        (
            "aiohttp",
            "nexrl.cli",
            ["sessions", "runs/a", "--any"],
            "nexrl sessions needs aiohttp, {remedy} 'nexrl[serve]'",
        ),
    ],
)
def test_a_command_that_is_not_installed_says_how_to_install_it_whatever_its_arguments(
    module, command, arguments, said
):
    done = without(module, command, *arguments)
    assert done.returncode == 1
    assert done.stderr == f"error: {said.format(remedy='which is not installed: pip install')}\n"


def test_help_lists_what_is_not_installed_with_the_remedy():
    assert "(not installed: pip install 'nexrl[serve]')" in without("aiohttp", "nexrl.cli", "--help").stdout
