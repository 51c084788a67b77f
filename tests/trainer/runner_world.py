"""Agents run by real runners; nobody listens at the services' addresses unless a test does."""

import asyncio
import os
import sys

import psutil
from msgspec import convert

from nexrl_trainer.recipe.agent import Agent
from nexrl_trainer.rollouts.runners.choosing import runner_of
from nexrl_trainer.rollouts.runners.runner import Job, Services

SERVICES = Services(proxy="http://127.0.0.1:1", ingest="http://127.0.0.1:2", model="m")


def runner(folder, *, services=SERVICES, say=print, **agent):
    """The runner of an agent whose recipe lies in `folder`."""
    return runner_of(
        convert(agent, Agent),
        recipe_folder=folder,
        workspaces=folder / "workspaces",
        log=folder / "agents.log",
        services=services,
        say=say,
    )


ATTEMPT = f"run-g0-r0-{os.getpid()}"
"""Of its own in every process that tests run in: what an attempt leaves is found and killed on the whole machine."""


def job(attempt=ATTEMPT, *, alone=False, **task):
    return Job(attempt=attempt, key=f"nxr-{attempt}.s", task=task, alone=alone)


async def run(folder, code, *, timeout_s=20.0, task=None, **agent):
    """Run a Python program as a command agent, once."""
    async with runner(folder, command=[sys.executable, "-c", code], **agent) as started:
        return await started.run(job(**(task or {})), timeout_s)


def alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def gone(pid):
    for _ in range(100):
        if not alive(pid):
            return True
        await asyncio.sleep(0.02)
    return False
