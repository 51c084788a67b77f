"""Responses from bytes: the same however they are cut, and never a guess where one ends."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from raw_server import chunked, plain

from nexrl_proxy.engines.http_parser import LARGEST_HEAD, ParseError, ResponseParser

BODY = b'{"output_ids":[1,2]}\r\n\r\n0\r\n'


def parsed(*pieces: bytes, eof: bool = False) -> ResponseParser:
    parser = ResponseParser()
    for piece in pieces:
        parser.feed(piece)
    if eof:
        parser.eof()
    return parser


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


@given(st.lists(st.binary(max_size=40), max_size=6), st.lists(st.integers(0, 10_000), max_size=12))
def test_a_chunked_body_is_the_same_wherever_its_bytes_are_cut(pieces, places):
    response = chunked(pieces, ending=b"0;last\r\nx-checksum: 1\r\n\r\n")
    parser = parsed(*cut(response, places))
    assert (parser.complete, parser.keep_alive, parser.take()) == (True, True, b"".join(pieces))


@given(st.binary(max_size=60), st.lists(st.integers(0, 10_000), max_size=12))
def test_a_body_of_known_length_is_the_same_wherever_its_bytes_are_cut(body, places):
    parser = parsed(*cut(plain(body), places))
    assert (parser.complete, parser.keep_alive, parser.take()) == (True, True, body)


@pytest.mark.parametrize("response", [plain(BODY), chunked([BODY, BODY[:3]])], ids=["length", "chunked"])
def test_byte_by_byte_is_enough_and_no_byte_before_the_last(response):
    parser = ResponseParser()
    for place in range(len(response)):
        assert not parser.complete
        parser.feed(response[place : place + 1])
    assert parser.complete
    assert parser.take().startswith(BODY)


def test_interim_responses_are_skipped():
    parser = parsed(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nlink: x\r\n\r\n" + plain(b"ok"))
    assert (parser.status, parser.take(), parser.headers[b"content-length"]) == (200, b"ok", b"2")


def test_a_body_without_a_length_ends_with_the_connection():
    parser = parsed(b"HTTP/1.1 200 OK\r\n\r\nab", b"cd", eof=True)
    assert (parser.complete, parser.keep_alive, parser.take()) == (True, False, b"abcd")


@pytest.mark.parametrize(
    ("head", "kept"),
    [
        ("HTTP/1.1 204 No Content\r\n", True),
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n", True),
        ("HTTP/1.1 200 OK\r\nConnection: Close\r\ncontent-length: 0\r\n", False),
        ("HTTP/1.0 200 OK\r\ncontent-length: 0\r\n", False),
        ("HTTP/1.0 200\r\nconnection: keep-alive\r\ncontent-length: 0, 0\r\n", True),
    ],
)
def test_a_connection_is_kept_only_where_both_sides_may_use_it_again(head, kept):
    parser = parsed(f"{head}\r\n".encode())
    assert (parser.complete, parser.keep_alive) == (True, kept)


def test_a_connection_with_bytes_nobody_asked_for_is_not_used_again():
    assert not parsed(plain(b"ok") + b"HTTP/1.1 200 OK\r\n").keep_alive


@pytest.mark.parametrize(
    ("response", "complaint"),
    [
        (b"SSH-2.0-OpenSSH\r\n\r\n", "does not speak HTTP/1.1"),
        (b"HTTP/2 200 OK\r\n\r\n", "does not speak HTTP/1.1"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "switches protocols"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", "is no length"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", "is no length"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n", "only chunked"),
        (b"HTTP/1.1 200 OK\r\na: b\r\n folded: c\r\n\r\n", "is no header"),
        (b"HTTP/1.1 200 OK\r\nname : value\r\n\r\n", "is no header"),
        (chunked([])[:-5] + b"0x1\r\na\r\n", "cannot begin"),
        (chunked([])[:-5] + b"1\r\nab\r\n", "longer than it said"),
        (chunked([])[:-5] + b"1\r\na", "middle of its answer"),
        (chunked([])[:-5] + b"1" * 5000, "is longer than"),
        (plain(b"abc")[:-1], "1 bytes short"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * LARGEST_HEAD, "header is larger"),
        (b"", "without answering"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_whole_response_is_an_error_that_says_why(response, complaint):
    with pytest.raises(ParseError, match=complaint):
        parsed(response, eof=True)
