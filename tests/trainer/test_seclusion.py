"""Agents without a network but for the run's services, in namespaces of this kernel."""

import asyncio
import contextlib
import os
import sys
from pathlib import Path

import psutil
import pytest
from msgspec import structs
from runner_world import SERVICES, alive, job, run, runner

from nexrl.errors import ConfigError
from nexrl_trainer.rollouts.runners import seclusion

pytestmark = pytest.mark.slow
CALL = """
import os, urllib.request
for name in ("OPENAI_BASE_URL", "NEXRL_INGEST_URL", "ELSEWHERE"):
    try:
        print(urllib.request.urlopen(os.environ[name], timeout=5).read().decode())
    except OSError as error:
        print(error.reason.strerror)
"""


@contextlib.asynccontextmanager
async def saying(text):
    """Serve HTTP that says one thing; yield its address."""

    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(text)}\r\nConnection: close\r\n\r\n{text}".encode())
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


FORBIDDING = {
    "user/max_user_namespaces": "0",
    "kernel/unprivileged_userns_clone": "0",
    "kernel/apparmor_restrict_unprivileged_userns": "1",
}
"""Switches of the kernel that keep user namespaces from people, by their files in /proc/sys."""


def forbidding():
    """Return what says that this machine is not to have user namespaces; empty where nothing does."""
    if sys.platform != "linux":
        return "it is no Linux"
    if os.environ.get("WITHOUT_USER_NAMESPACES"):
        return "WITHOUT_USER_NAMESPACES is set"
    switches = {name: Path("/proc/sys") / name for name in FORBIDDING}
    found = {name: path.read_text().strip() for name, path in switches.items() if path.exists()}
    return ", ".join(f"{name} is {value}" for name, value in found.items() if value == FORBIDDING[name])


@pytest.fixture(autouse=True)
async def _possible():
    try:
        await seclusion.check_seclusion()
    except ConfigError as error:
        if not (reason := forbidding()):
            pytest.fail(f"{error}; where that is not to be, set WITHOUT_USER_NAMESPACES=1")
        pytest.skip(f"{reason}: {error}")


async def test_an_agent_reaches_the_proxy_and_ingest_at_their_addresses_and_nothing_else(tmp_path):
    async with saying("proxy") as proxy, saying("ingest") as ingest, saying("secret") as elsewhere:
        services = structs.replace(SERVICES, proxy=proxy, ingest=ingest)
        settings = {"services": services, "env": {"ELSEWHERE": elsewhere}, "answer": "stdout"}
        secluded = await run(tmp_path, CALL, network="services", **settings)
        assert secluded.stdout.splitlines() == ["proxy", "ingest", "Connection refused"], secluded.stderr
        assert (await run(tmp_path, CALL, **settings)).stdout.splitlines() == ["proxy", "ingest", "secret"]


async def test_many_are_served_at_once_and_none_outlives_its_agent(tmp_path):
    left = ["sleep", f"60.{os.getpid()}"]
    code = CALL + f"import subprocess; subprocess.Popen({left}, start_new_session=True, env={{}})"
    async with saying("proxy") as proxy, saying("ingest") as ingest:
        services = structs.replace(SERVICES, proxy=proxy, ingest=ingest)
        command = [sys.executable, "-c", code]
        settings = {"network": "services", "env": {"ELSEWHERE": "http://127.0.0.1:9"}, "limits": {"cpu_s": 9}}
        async with runner(tmp_path, services=services, command=command, **settings) as started:
            ended = await asyncio.gather(*(started.run(job(f"a-{n}"), 20) for n in range(4)))
    assert [item.stdout.split("\n")[:2] for item in ended] == [["proxy", "ingest"]] * 4
    assert [item.exit_code for item in ended] == [0] * 4
    assert " ".join(left) not in command_lines()


async def test_a_client_that_has_said_all_it_will_is_still_answered(tmp_path):
    async def answer(reader, writer):
        writer.write(await reader.read() + b" to you")
        await writer.drain()
        writer.close()

    code = "import os, socket\nwhere = os.environ['NEXRL_INGEST_URL'].rpartition(':')[2]\n"
    code += "with socket.create_connection(('127.0.0.1', int(where)), timeout=10) as said:\n"
    code += "    said.sendall(b'hello')\n    said.shutdown(socket.SHUT_WR)\n    print(said.makefile().read())"
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        services = structs.replace(SERVICES, ingest=address)
        ended = await run(tmp_path, code, network="services", services=services)
    assert (ended.answer, ended.stderr) == ("hello to you", "")


async def test_an_agent_that_is_killed_leaves_no_connection_to_a_service_that_holds_on(tmp_path):
    killed, over = asyncio.Event(), asyncio.Event()

    async def hold(reader, writer):
        await reader.read()
        killed.set()
        await over.wait()
        writer.close()

    code = "import os, socket, time\nwhere = os.environ['NEXRL_INGEST_URL'].rpartition(':')[2]\n"
    code += "said = socket.create_connection(('127.0.0.1', int(where)))\nsaid.sendall(b'hello')\ntime.sleep(60)"
    async with await asyncio.start_server(hold, "127.0.0.1", 0) as server, asyncio.timeout(20):
        port = server.sockets[0].getsockname()[1]
        services = structs.replace(SERVICES, ingest=f"http://127.0.0.1:{port}")
        await run(tmp_path, code, network="services", services=services, timeout_s=0.5)
        await killed.wait()
        assert [item for item in psutil.Process().net_connections() if item.raddr and item.raddr.port == port] == []
        over.set()


async def test_a_service_on_another_machine_is_refused(tmp_path):
    services = structs.replace(SERVICES, ingest="http://10.0.0.7:80")
    with pytest.raises(ValueError, match=r"10\.0\.0\.7:80 is not at 127\.0\.0\.1"):
        await run(tmp_path, "", network="services", services=services)


async def test_where_the_machine_cannot_the_recipe_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(seclusion.sys, "platform", "darwin")
    with pytest.raises(ConfigError, match=r"agent.network=services: .*only Linux can"):
        await run(tmp_path, "", network="services")


async def test_an_agent_that_hides_from_its_group_and_from_its_mark_ends_too(tmp_path):
    inside = f"import os, time; open('pid', 'w'); time.sleep(60)  # {os.getpid()}"
    code = "import os, subprocess, sys, time\n"
    code += f"subprocess.Popen([sys.executable, '-c', {inside!r}], env={{}}, start_new_session=True)\n"
    code += "while not os.path.exists('pid'): time.sleep(0.01)"
    await run(tmp_path, code, network="services")
    assert not any(inside in line for line in command_lines())


def command_lines():
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if alive(process.pid):
                yield " ".join(process.cmdline())
