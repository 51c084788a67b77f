"""Run one command under limits: `python confine.py JSON COMMAND...`. A script, so that nothing of NexRL is loaded.

Limits are the kernel's (`setrlimit`). Without `network`, the command also lives in namespaces of its own: of a network
there are only the `doors` there, and no process of it, however it hides, outlives it. A door is a port of the
namespace's 127.0.0.1 whose listening socket is handed to whoever started this, who serves it from outside. Linux;
needs user namespaces, not root. Exit code 125 is ours: what could not be set up stands on standard error.
"""

import ctypes
import json
import os
import resource
import signal
import sys

NEW_USER, NEW_PIDS, NEW_NETWORK = 0x10000000, 0x20000000, 0x40000000
PR_SET_PDEATHSIG = 1
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
CANNOT = 125
LIMITS = {
    "memory": resource.RLIMIT_AS,
    "cpu_s": resource.RLIMIT_CPU,
    "file": resource.RLIMIT_FSIZE,
    "open_files": resource.RLIMIT_NOFILE,
}


def limit(limits: dict[str, int]) -> None:
    for name, kind in LIMITS.items():
        if name in limits:
            resource.setrlimit(kind, (limits[name], limits[name]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def isolate() -> None:
    """Enter namespaces of our own, as the same user; the next child is the first process in there."""
    user, group = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(NEW_USER | NEW_PIDS | NEW_NETWORK):
        sys.stderr.write(f"unshare: {os.strerror(ctypes.get_errno())}")
        sys.exit(CANNOT)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:  # noqa: PTH123 - pathlib takes 10 ms to load
            file.write(text)


def open_doors(ports: list[int], to: int) -> None:
    """Listen on these ports of the namespace, and send the sockets over the Unix socket `to`."""
    # Only here: judges of code have no doors, and start often.
    import socket
    import struct
    from fcntl import ioctl

    with socket.socket() as any_socket:
        ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", IFF_UP))
    doors = [socket.create_server(("127.0.0.1", port), backlog=128) for port in ports]
    with socket.socket(fileno=to) as owner:
        socket.send_fds(owner, [b"doors"], [door.fileno() for door in doors])
    for door in doors:
        door.close()


def run(command: list[str]) -> None:
    """Become the command."""
    try:
        os.execvp(command[0], command)  # noqa: S606 - the command is what this is for
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}")
        sys.exit(CANNOT)


def main() -> None:
    limits = json.loads(sys.argv[1])
    if limits["network"]:
        limit(limits)
        run(sys.argv[2:])
    isolate()
    if limits.get("doors"):
        open_doors(limits["doors"], limits["doors_to"])
    child = os.fork()
    if not child:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        limit(limits)
        run(sys.argv[2:])
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    sys.exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
