"""The load as a process: `python -m gateways.load PROMPTS` makes the calls that standard input asks for.

One line of JSON in (`Run` or `Turns`), one out (`Result` or `TurnCosts`). Raw protocols, one call in flight per
connection; every call has its own session and its own text.
"""

import asyncio
import itertools
import secrets
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from gateways.client import Client, call
from gateways.wire import NONCE, Result, Run, Target, TurnCosts, Turns

GRACE_S = 30.0


class Calls:
    """Makes requests, each with a text and a session of its own."""

    def __init__(self, target: Target, bodies: list[bytes], extra: bytes) -> None:
        self._target = target
        self._bodies = itertools.cycle(bodies)
        self._extra = extra
        self._numbers = itertools.count()

    def next(self) -> bytes:
        number = next(self._numbers)
        body = next(self._bodies).replace(NONCE.encode(), secrets.token_hex(4).encode())
        return call(self._target, f"bench-{secrets.token_hex(6)}", number, body[:-1] + self._extra)


class Load:
    """One run."""

    def __init__(self, run: Run, bodies: list[bytes]) -> None:
        extra = b',"logprobs":true' if run.logprobs else b""
        self._run = run
        self._calls = Calls(run.target, bodies, extra + (b',"stream":true}' if run.stream else b"}"))
        self._left = run.count
        self._deadline = 0.0
        self._open = 0
        self._finished = asyncio.Event()
        self._clients: list[Client] = []
        self.result = Result()

    async def go(self) -> Result:
        """Make the calls."""
        run, loop = self._run, asyncio.get_running_loop()
        self._clients = [await connected(run.target, self._ended) for _ in range(run.c)]
        begun = time.perf_counter()
        self._deadline = begun + run.seconds
        for place, client in enumerate(self._clients):
            loop.call_later(run.ramp_s * place / run.c, self._next, client)
        try:
            await asyncio.wait_for(self._finished.wait(), run.seconds + GRACE_S)
        except TimeoutError:
            self._give_up()
        self.result.wall_s = time.perf_counter() - begun
        for client in self._clients:
            client.close()
        return self.result

    def _give_up(self) -> None:
        self.result.events += sum(client.events for client in self._clients)
        self.result.errors += self._open
        self.result.error = self.result.error or f"{self._open} calls were not answered {GRACE_S:.0f} s after the end"

    def _next(self, client: Client) -> None:
        if self._left <= 0 or time.perf_counter() > self._deadline:
            if self._open == 0:
                self._finished.set()
            return
        self._left -= 1
        self._open += 1
        self.result.most_open = max(self.result.most_open, self._open)
        if client.is_open:
            client.send(self._calls.next())
        else:  # a server may close a connection between two calls
            asyncio.get_running_loop().create_task(self._reconnect(client))

    async def _reconnect(self, old: Client) -> None:
        client = await connected(self._run.target, self._ended)
        self._clients[self._clients.index(old)] = client
        client.send(self._calls.next())

    def _ended(self, client: Client, body: bytes, error: str) -> None:
        self._open -= 1
        result = self.result
        result.events += client.events
        client.events = 0
        if error or (self._run.stream and client.first_s is None):
            result.errors += 1
            result.error = result.error or error or f"no stream: {body[:300].decode(errors='replace')}"
        else:
            result.calls += 1
            result.latencies_s.append(time.perf_counter() - client.started_s)
            if client.first_s is not None:
                result.firsts_s.append(client.first_s)
        self._next(client)


async def connected(target: Target, ended: Any) -> Client:
    """Return a connection; raises SystemExit where there is none in time."""
    try:
        async with asyncio.timeout(GRACE_S):
            _, client = await asyncio.get_running_loop().create_connection(
                lambda: Client(ended), target.host, target.port
            )
    except (OSError, TimeoutError) as error:
        raise SystemExit(f"no connection to {target.host}:{target.port} within {GRACE_S:.0f} s: {error}") from error
    return client


async def converse(turns: Turns, bodies: list[bytes]) -> TurnCosts:
    """Hold conversations and charge each turn with the CPU time of the processes named."""
    costs = TurnCosts()
    for number in range(turns.sessions):
        spent, size = await conversation(turns, bodies[number % len(bodies)], number)
        costs.cpu_ms.append(spent)
        costs.last_request_bytes = size
    return costs


async def conversation(turns: Turns, body: bytes, number: int) -> tuple[list[float], int]:
    target, session = turns.target, f"bench-{secrets.token_hex(6)}"
    asked: dict[str, Any] = msgspec.json.decode(body.replace(NONCE.encode(), secrets.token_hex(4).encode()))
    answered: asyncio.Queue[tuple[bytes, str]] = asyncio.Queue()
    client = await connected(target, lambda _, reply, error: answered.put_nowait((reply, error)))
    spent: list[float] = []
    data = b""
    for turn in range(turns.turns):
        data = call(target, session, number, msgspec.json.encode(asked))
        before = cpu_s(turns.pids)
        client.send(data)
        try:
            reply, error = await asyncio.wait_for(answered.get(), GRACE_S)
        except TimeoutError:
            raise RuntimeError(f"turn {turn} of session {number} was not answered within {GRACE_S:.0f} s") from None
        if error:
            raise RuntimeError(error)
        message = msgspec.json.decode(reply)["choices"][0]["message"]
        asked["messages"] += [message, following(message)]
        spent.append(1000 * (cpu_s(turns.pids) - before))
    client.close()
    return spent, len(data)


def following(message: dict[str, Any]) -> dict[str, Any]:
    """Return what a conversation continues with: a tool's result, or the user's next message."""
    text = " ".join(secrets.token_hex(3) for _ in range(12))
    if calls := message.get("tool_calls"):
        return {"role": "tool", "tool_call_id": calls[0]["id"], "content": text}
    return {"role": "user", "content": text}


def cpu_s(pids: list[int]) -> float:
    """Return the CPU time of processes, user and system, to the nanosecond."""
    return sum(time.clock_gettime((~pid << 3) | 2) for pid in pids)  # what clock_getcpuclockid(3) returns


async def act(line: bytes, prompts: dict[str, list[bytes]]) -> Result | TurnCosts:
    asked = msgspec.json.decode(line, type=Run | Turns)
    if isinstance(asked, Run):
        return await Load(asked, prompts[asked.prompts]).go()
    try:
        return await converse(asked, prompts["shared"])
    except RuntimeError as error:
        return TurnCosts(error=str(error))


def main() -> None:
    prompts = msgspec.msgpack.decode(Path(sys.argv[1]).read_bytes(), type=dict[str, list[bytes]])
    for line in sys.stdin.buffer:
        result = uvloop.run(act(line, prompts))
        sys.stdout.buffer.write(msgspec.json.encode(result) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
