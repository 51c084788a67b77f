import fcntl
import os
import subprocess
import sys

import pytest
from main_job import ROOT

# The cluster of the runners' tests is one here too.
sys.path.append(str(ROOT / "tests/trainer"))


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """The quick start's model, trained only a little: it babbles, which is all these tests need.

    One for all workers of a test run, whose folders lie side by side; the first that needs it makes it.
    """
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "little"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            made = tmp_path_factory.mktemp("models") / "little"
            script = ROOT / "recipes/quickstart/make_model.py"
            subprocess.run([sys.executable, script, "--out", made, "--steps", "20"], check=True, capture_output=True)
            made.rename(folder)
    return folder
