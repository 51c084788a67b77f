"""Run one command under limits: `python confine.py JSON COMMAND...`. A script, so that nothing of NexRL is loaded.

Limits are the kernel's (`setrlimit`). Without `network`, the command also lives in namespaces of its own: the network
there is empty, and no process of it, however it hides, outlives it. Linux; needs user namespaces, not root.
Exit code 125 is ours: what could not be set up stands on standard error.
"""

import ctypes
import json
import os
import resource
import signal
import sys

NEW_USER, NEW_PIDS, NEW_NETWORK = 0x10000000, 0x20000000, 0x40000000
PR_SET_PDEATHSIG = 1
CANNOT = 125


def limit(limits: dict[str, int]) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (limits["memory"], limits["memory"]))
    resource.setrlimit(resource.RLIMIT_CPU, (limits["cpu_s"], limits["cpu_s"]))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limits["file"], limits["file"]))
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


def main() -> None:
    limits = json.loads(sys.argv[1])
    if limits["network"]:
        limit(limits)
        os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606 - the command is what this is for
    isolate()
    child = os.fork()
    if not child:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        limit(limits)
        os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606 - the command is what this is for
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    sys.exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
