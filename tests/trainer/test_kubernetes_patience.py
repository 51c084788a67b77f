"""Whoever asks a busy server waits for it, and quotes it."""

import httpx2
import msgspec
import pytest

from nexrl_trainer.rollouts.runners.kubernetes.patience import Patience, in_words, passes, pause


def answered(code, text="", **headers):
    request = httpx2.Request("GET", "http://c")
    response = httpx2.Response(code, text=text, headers=headers, request=request)
    return httpx2.HTTPStatusError("no", request=request, response=response)


def test_what_may_be_otherwise_is_asked_again_as_late_as_the_server_says():
    assert [passes(answered(code)) for code in (410, 429, 500, 503, 403, 404, 409, 422)] == [True] * 4 + [False] * 4
    assert passes(httpx2.ConnectError("no"))
    assert pause(answered(429, **{"Retry-After": "7"}), 0) == 7
    assert pause(answered(429, **{"Retry-After": "7000"}), 0) == 60
    assert 0.1 <= pause(httpx2.ConnectError("no"), 0) <= 0.2
    assert 5 <= pause(answered(503), 1000) <= 10


def test_a_server_is_quoted_and_so_is_who_stands_before_it():
    status = msgspec.json.encode({"kind": "Status", "message": "exceeded quota:\n pods"}).decode()
    assert in_words(answered(403, status)) == "exceeded quota: pods"
    assert in_words(answered(502, "<html>no")) == "502 <html>no"
    assert in_words(httpx2.ConnectError("refused")) == "ConnectError: refused"


async def test_who_refuses_is_not_asked_again():
    asked = []

    async def question():
        asked.append(1)
        raise answered(422, "no such image")

    with pytest.raises(ValueError, match="422 no such image"):
        await Patience(print).ask(question)
    assert asked == [1]


async def test_a_server_that_only_ever_fails_is_given_up_with_its_words_and_one_out_of_reach_is_not():
    status = msgspec.json.encode({"kind": "Status", "message": "failed calling webhook"}).decode()
    failing = answered(500, status, **{"Retry-After": "0"})

    def replies(*replies):
        left = list(replies)

        async def question():
            if isinstance(reply := left.pop(0), Exception):
                raise reply
            return reply

        return question

    with pytest.raises(ValueError, match=r"^failed calling webhook$"):
        await Patience(print).ask(replies(failing, failing), answered_s=0)
    away = answered(502, "<html>no", **{"Retry-After": "0"})
    assert await Patience(print).ask(replies(away, httpx2.ConnectError("no"), away, "made"), answered_s=0) == "made"
