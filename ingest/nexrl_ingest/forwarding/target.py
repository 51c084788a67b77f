"""Where spans are forwarded to, from what `nexrl ingest` is told."""

from collections.abc import Sequence
from urllib.parse import urlsplit

from msgspec import Struct

from nexrl.errors import ConfigError

PATH = "/v1/traces"


class Target(Struct, frozen=True, kw_only=True):
    """Another OTLP/HTTP endpoint."""

    url: str
    """Of its traces."""
    headers: dict[str, str]


def target_of(url: str | None, headers: Sequence[str]) -> Target | None:
    """Return the endpoint, None without a URL; raises ConfigError where that or a header cannot be used.

    As with OTEL_EXPORTER_OTLP_ENDPOINT, `/v1/traces` is added to the URL unless it ends so.
    """
    if url is None:
        if headers:
            raise ConfigError("--forward-header without --forward: say where to send spans, too")
        return None
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise ConfigError(f"--forward {url!r}: give a URL such as http://127.0.0.1:6006")
    if parts.username or parts.password:
        raise ConfigError(
            f"--forward {parts.scheme}://...@{parts.hostname}: credentials go into --forward-header "
            "'Authorization=Basic ...', where no log shows them"
        )
    base = url.rstrip("/")
    return Target(url=base if base.endswith(PATH) else base + PATH, headers=dict(map(_header, headers)))


def _header(given: str) -> tuple[str, str]:
    name, separator, value = given.partition("=")
    name, value = name.strip(), value.strip()
    if (
        not separator
        or not name.replace("-", "").replace("_", "").isalnum()
        or not (value.isascii() and value.isprintable())
    ):
        raise ConfigError(f"--forward-header {name[:80]!r}: give NAME=VALUE, such as 'Authorization=Bearer KEY'")
    return name, value
