import subprocess
import sys

import pytest
from main_job import ROOT


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """The quick start's model, trained only a little: it babbles, which is all these tests need."""
    folder = tmp_path_factory.mktemp("models") / "little"
    script = ROOT / "recipes/quickstart/make_model.py"
    subprocess.run([sys.executable, script, "--out", folder, "--steps", "20"], check=True, capture_output=True)
    return folder
