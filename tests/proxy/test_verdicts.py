"""What ingest's answers mean for the spans they answer, and how they are told."""

import pytest

from nexrl_ingest.otlp import bodies
from nexrl_proxy.recorder import verdict_of


@pytest.mark.parametrize("content_type", [bodies.PROTOBUF, bodies.JSON])
def test_an_error_is_told_in_its_own_words(content_type):
    said = "PostgreSQL database nexrl cannot be written; nothing was acknowledged, try again"
    verdict = verdict_of(503, bodies.status(content_type, 503, said))
    assert verdict.kind == "later"
    assert verdict.reason.isprintable()
    assert said in verdict.reason


def test_an_error_of_something_else_is_told_as_it_is():
    verdict = verdict_of(502, b"<html>Bad Gateway</html>")
    assert (verdict.kind, verdict.reason) == ("later", "HTTP 502: <html>Bad Gateway</html>")
