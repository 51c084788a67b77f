"""`nexrl doctor`: what this machine can do, and how to mend what is missing."""

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import typer
from msgspec import Struct
from rich.console import Console
from rich.markup import escape
from rich.table import Table

GIB = 1 << 30
LEAST_MEMORY_GIB = 4
LEAST_DISK_GIB = 5
PORTS = {"ingest": 4318, "proxy": 8000}
MARKS = {"ok": "[green]ok[/green]", "note": "[yellow]note[/yellow]", "missing": "[red]missing[/red]"}


class Finding(Struct, frozen=True, kw_only=True):
    """What one check found."""

    what: str
    state: Literal["ok", "note", "missing"]
    """`missing`: the quick start cannot run; `note`: it can, and this is good to know."""
    found: str
    remedy: str = ""


def doctor() -> None:
    """Say what this machine can do (Python, torch, GPU, Ray, SGLang, ports) and how to mend what is missing.

    Exit code 1 where the quick start could not run here.
    """
    findings = examine()
    table = Table("", "what", "found", "remedy")
    for item in findings:
        # `nexrl[train]` is a name here, no markup.
        table.add_row(MARKS[item.state], *map(escape, (item.what, item.found, item.remedy)))
    Console().print(table)
    if any(item.state == "missing" for item in findings):
        raise typer.Exit(1)


def examine() -> list[Finding]:
    """Run every check; none of them changes anything."""
    checks: list[Callable[[], Finding]] = [_nexrl, _python, _memory, _disk, _torch, _gpu, _sglang]
    packages = {
        "ray": "train",
        "transformers": "train",
        "aiohttp": "serve",
        "matplotlib": "train",
        "openai": "examples",
    }
    found = [check() for check in checks]
    found += [_package(name, extra) for name, extra in packages.items()]
    return found + [_port(name, port) for name, port in PORTS.items()]


def _nexrl() -> Finding:
    return Finding(what="NexRL", state="ok", found=version("nexrl"))


def _python() -> Finding:
    shown = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < (3, 11):  # noqa: UP036 - the doctor is for people on the wrong one, too
        return Finding(what="Python", state="missing", found=shown, remedy="use Python 3.11 or newer")
    return Finding(what="Python", state="ok", found=f"{shown}, {os.cpu_count()} cores")


def _memory() -> Finding:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    enough = total >= LEAST_MEMORY_GIB
    remedy = "" if enough else f"the quick start was made for {LEAST_MEMORY_GIB} GiB or more"
    return Finding(what="memory", state="ok" if enough else "note", found=f"{total:.0f} GiB", remedy=remedy)


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / GIB
    enough = free >= LEAST_DISK_GIB
    remedy = "" if enough else f"free {LEAST_DISK_GIB} GiB or pass --run on another disk"
    return Finding(what="disk here", state="ok" if enough else "note", found=f"{free:.0f} GiB free", remedy=remedy)


def _torch() -> Finding:
    if importlib.util.find_spec("torch") is None:
        return Finding(what="torch", state="missing", found="-", remedy="pip install 'nexrl[train]'")
    try:
        import torch
    except (ImportError, OSError) as error:
        return Finding(what="torch", state="missing", found=f"broken: {error}", remedy="reinstall it: make clean, make")
    return Finding(what="torch", state="ok", found=f"{torch.__version__}, CUDA {torch.version.cuda or 'not built in'}")


def _gpu() -> Finding:
    listed = _nvidia_smi()
    if not listed:
        return Finding(
            what="GPU", state="note", found="none", remedy="the embedded engine and small models run on the CPU"
        )
    if importlib.util.find_spec("torch") and _torch().state == "ok":
        import torch

        if not torch.cuda.is_available():
            remedy = "this torch does not see it: install torch's CUDA build"
            return Finding(what="GPU", state="note", found=listed, remedy=remedy)
    return Finding(what="GPU", state="ok", found=listed)


def _nvidia_smi() -> str:
    if not shutil.which("nvidia-smi"):
        return ""
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return "; ".join(done.stdout.split("\n")).strip("; ") if done.returncode == 0 else ""


def _sglang() -> Finding:
    remedy = "with a GPU: pip install 'nexrl[sglang]' here or where engine.python is, or set engine.url to a server"
    try:
        return Finding(what="SGLang", state="ok", found=version("sglang"))
    except PackageNotFoundError:
        return Finding(what="SGLang", state="note", found="not installed", remedy=remedy)


def _package(name: str, extra: str) -> Finding:
    try:
        return Finding(what=name, state="ok", found=version(name))
    except PackageNotFoundError:
        return Finding(what=name, state="missing", found="-", remedy=f"pip install 'nexrl[{extra}]'")


def _port(name: str, port: int) -> Finding:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            remedy = f"`nexrl {name}` needs --port; `nexrl-train` takes free ports by itself"
            return Finding(what=f"port {port} ({name})", state="note", found="in use", remedy=remedy)
    return Finding(what=f"port {port} ({name})", state="ok", found="free")
