"""A model endpoint on a free port that answers chat completions from a script and keeps what it was asked.

It stands where an agent expects the proxy and ingest, and speaks as much of both as a test of an agent needs: chat
completions, plain and streamed in one piece, and rewards. It checks no key and samples nothing.
"""

import json
import re
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote

from msgspec import Struct

from nexrl.emitting import INGEST_VARIABLE
from nexrl.keys import PREFIX
from nexrl.sessions import attempt_named_by

CREATED = 1_700_000_000
_CHAT = re.compile(r"(?:/s/([^/]+))?/v1/chat/completions")
_REWARD = re.compile(r"/api/sessions/([^/]+)/rewards")


class Asked(Struct, frozen=True, kw_only=True):
    """A request that reached the endpoint."""

    body: dict[str, Any]
    headers: dict[str, str]
    """Names in lower case."""
    session: str | None = None
    """Whose it is: by URL, attempt key or `x-nexrl-session`, as the proxy would say."""

    @property
    def group(self) -> str | None:
        return self.headers.get("x-nexrl-group")

    @property
    def agent(self) -> str | None:
        return self.headers.get("x-nexrl-agent")


class Endpoint:
    """Answers with the replies in turn: a text, or a whole assistant message with its tool calls.

    A request more than the script has is answered 400, which no client tries again; `with` starts and stops it.
    """

    def __init__(self, *replies: str | Mapping[str, Any]) -> None:
        self.requests: list[Asked] = []
        self.rewards: list[Asked] = []
        self._replies = [_message(reply) for reply in replies]
        self._lock = Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def environment(self, session: str = "test") -> dict[str, str]:
        """Return what an agent that a trainer started would find: where to call and report, and its session's key."""
        base = f"{self.url}/v1"
        key = f"{PREFIX}{session}.unsigned"
        return {"OPENAI_BASE_URL": base, "OPENAI_API_BASE": base, "OPENAI_API_KEY": key, INGEST_VARIABLE: self.url}

    def answer(self, path: str, headers: dict[str, str], body: dict[str, Any]) -> tuple[HTTPStatus, Any]:
        """Keep a request and return its status and reply."""
        if found := _REWARD.fullmatch(path):
            self.rewards.append(Asked(body=body, headers=headers, session=unquote(found[1])))
            return HTTPStatus.OK, body
        if not (found := _CHAT.fullmatch(path)):
            return HTTPStatus.NOT_FOUND, _error(f"{path}: the test endpoint has chat completions and rewards")
        with self._lock:
            index = len(self.requests)
            self.requests.append(Asked(body=body, headers=headers, session=_session(found[1], headers)))
        if index >= len(self._replies):
            return HTTPStatus.BAD_REQUEST, _error(f"request {index + 1}: the script has {len(self._replies)} replies")
        return HTTPStatus.OK, _completion(index, str(body.get("model")), self._replies[index])


def _message(reply: str | Mapping[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", **({"content": reply} if isinstance(reply, str) else reply)}


def _session(prefix: str | None, headers: Mapping[str, str]) -> str | None:
    key = headers.get("authorization", "").removeprefix("Bearer ")
    return unquote(prefix or "") or attempt_named_by(key) or headers.get("x-nexrl-session")


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error"}}


def _completion(index: int, model: str, message: dict[str, Any]) -> dict[str, Any]:
    reason = "tool_calls" if message.get("tool_calls") else "stop"
    return {
        "id": f"chatcmpl-{index}",
        "object": "chat.completion",
        "created": CREATED,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": reason}],
        "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
    }


def _events(completion: dict[str, Any]) -> bytes:
    """Return a completion as a stream of one chunk."""
    [choice] = completion["choices"]
    calls = [{"index": index, **call} for index, call in enumerate(choice["message"].get("tool_calls") or [])]
    delta = {**choice["message"], **({"tool_calls": calls} if calls else {})}
    choices = [{"index": 0, "delta": delta, "finish_reason": choice["finish_reason"]}]
    chunk = {**completion, "object": "chat.completion.chunk", "choices": choices}
    return f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode()


def _handler(endpoint: Endpoint) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Clients keep connections open; at the end nobody waits for them.
        timeout = 5

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))) or b"{}")
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, reply = endpoint.answer(self.path, headers, body)
            streamed = status == HTTPStatus.OK and body.get("stream") is True
            data = _events(reply) if streamed else json.dumps(reply).encode()
            self.send_response(status)
            self.send_header("content-type", "text/event-stream" if streamed else "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
            """Say nothing: `requests` has it all."""

    return Handler
