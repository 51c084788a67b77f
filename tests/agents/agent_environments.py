"""What is made on first use and then kept: per framework a virtual environment or a folder of Node packages; a model.

Kept under NEXRL_AGENTS_CACHE (default ~/.cache/nexrl/agents), in folders named by the pinned list, or the source, that
they were made from. A framework that is on no registry comes from its repository on GitHub, at a pinned commit; where
GitHub cannot be reached, TEST_NEXAU_REPOSITORY names another repository that has the commit, a folder or a URL.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples/agents"
REQUIREMENTS = Path(__file__).with_name("requirements")
NEEDS = {"nexau": (3, 12)}
"""The oldest Python that a framework runs on, where that is newer than ours."""
NEWEST_MINOR = 20
NEXAU = "https://github.com/nex-agi/NexAU"
INSTALL_TIMEOUT_S = 1800
ERROR_LINES = 15


class InstallError(Exception):
    """What the registries, or pip and npm, said."""


def cache() -> Path:
    return Path(os.environ.get("NEXRL_AGENTS_CACHE") or Path.home() / ".cache/nexrl/agents")


def command_of(script: Path, environment: str, show: Callable[[str], None]) -> tuple[list[str | Path], dict[str, str]]:
    """Return how a client is started, and the variables that lead it to its packages; raises InstallError."""
    match script.suffix:
        case ".py":
            return [python_of(environment, show), script], {}
        case ".cjs":
            return ["node", script], _node_variables(environment, show)
        case _:
            return ["sh", script], _node_variables(environment, show) if environment else {}


def _node_variables(environment: str, show: Callable[[str], None]) -> dict[str, str]:
    modules = node_modules_of(environment, show)
    return {"NODE_PATH": str(modules), "PATH": f"{modules / '.bin'}{os.pathsep}{os.environ['PATH']}"}


def rehearsed_model(show: Callable[[str], None]) -> Path:
    """Return the model's folder; raises InstallError."""
    script = Path(__file__).with_name("rehearsed.py")
    sources = sorted([*script.parent.glob("rehearsed*.py"), script.with_name("chat_template.jinja")])
    source = b"".join(file.read_bytes() for file in sources)
    return made("rehearsed", source, lambda folder: run([sys.executable, script, folder]), show)


def small_model(show: Callable[[str], None]) -> Path:
    """Return the folder of the examples' model; raises InstallError."""
    script = EXAMPLES / "model/make_small_model.py"
    sources = [*sorted(script.parent.glob("*.*")), *sorted((ROOT / "recipes/quickstart").glob("*.py"))]
    source = b"".join(file.read_bytes() for file in sources)
    return made("examples", source, lambda folder: run([sys.executable, script, "--out", folder]), show)


def example_environment(name: str, show: Callable[[str], None]) -> dict[str, Path]:
    """Return what an example's page makes in its folder, and where it is kept; raises InstallError."""
    if (EXAMPLES / name / "package-lock.json").is_file():
        return {"node_modules": node_modules_of(name, show)}
    if (EXAMPLES / name / "requirements.txt").is_file():
        return {".venv": python_of(name, show).parents[1]}
    return {}


def python_of(name: str, show: Callable[[str], None]) -> Path:
    """Return the Python that has what an example, or `requirements/NAME.txt`, lists; raises InstallError."""
    shipped = EXAMPLES / name / "requirements.txt"
    listed = shipped if shipped.is_file() else REQUIREMENTS / f"{name}.txt"
    python = python_from(NEEDS.get(name, (3, 0)))

    def fill(folder: Path) -> None:
        run([python, "-m", "venv", folder])
        packages = folder / "requirements.txt"
        packages.write_text(reachable(listed.read_text()))
        run([folder / "bin/python", "-m", "pip", "install", "--quiet", "--no-compile", "--no-deps", "-r", packages])

    source = listed.read_bytes() + (b"" if python == sys.executable else python.encode())
    return made(name, source, fill, show) / "bin/python"


def python_from(version: tuple[int, int]) -> str:
    """Return a Python that is `version` or newer, this one where it is; raises InstallError where none is found."""
    if sys.version_info >= version:
        return sys.executable
    named = [shutil.which(f"python3.{minor}") for minor in range(version[1], NEWEST_MINOR + 1)]
    pyenv = sorted(Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv").glob("versions/3.*/bin/python"))
    for python in [*filter(None, named), *map(str, pyenv)]:
        # Not every name that is found is a Python: pyenv has one for each version that it could switch to.
        asked = f"import sys; sys.exit(sys.version_info < {version})"
        if subprocess.run([python, "-c", asked], capture_output=True, check=False).returncode == 0:
            return python
    needed = ".".join(map(str, version))
    raise InstallError(
        f"Python {needed} or newer is needed, this is {sys.version.split()[0]}: put python{needed} on the PATH"
    )


def reachable(listed: str) -> str:
    """Return a list of requirements in which NexAU comes from where TEST_NEXAU_REPOSITORY says."""
    if not (other := os.environ.get("TEST_NEXAU_REPOSITORY")):
        return listed
    address = Path(other).resolve().as_uri() if Path(other).is_dir() else other
    # Without its name: behind "nexau @ ", pip takes no address on this machine.
    return listed.replace(f"nexau @ git+{NEXAU}@", f"git+{address}@")


def node_modules_of(name: str, show: Callable[[str], None]) -> Path:
    """Return the folder with the packages that an example, or `requirements/NAME`, lists; raises InstallError."""
    shipped = EXAMPLES / name
    listed = shipped if shipped.is_dir() else REQUIREMENTS / name

    def fill(folder: Path) -> None:
        folder.mkdir()
        for file in ("package.json", "package-lock.json"):
            shutil.copy(listed / file, folder)
        run(["npm", "ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", folder])

    return made(name, (listed / "package-lock.json").read_bytes(), fill, show) / "node_modules"


def made(name: str, source: bytes, fill: Callable[[Path], None], show: Callable[[str], None]) -> Path:
    """Return a folder of the cache that `fill` filled, now or earlier, in this process or another one."""
    made_from = hashlib.sha256(source + sys.version.encode()).hexdigest()[:12]
    folder = cache() / f"{name}-{made_from}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    ready = folder / ".complete"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ready.exists():
            show(f"making {folder}")
            # Not moved into place afterwards: scripts of a virtual environment name the folder they were made in.
            shutil.rmtree(folder, ignore_errors=True)
            fill(folder)
            ready.touch()
    return folder


def run(command: Sequence[str | Path]) -> None:
    """Run an installer; raises InstallError with the end of what it said."""
    done = subprocess.run(
        list(map(str, command)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=INSTALL_TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        said = "\n    ".join(done.stdout.splitlines()[-ERROR_LINES:])
        raise InstallError(f"{' '.join(map(str, command))} failed with code {done.returncode}:\n    {said}")
