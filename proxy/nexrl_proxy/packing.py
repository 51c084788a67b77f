"""Packed request bodies: unpacked only as far as the limit allows.

aiohttp would do this too, and goes on unpacking what it has refused: half a megabyte that unpacks to half a gigabyte
keeps everybody waiting.
"""

import zlib

import zstandard

from nexrl_proxy.errors import ApiError, too_large

GZIP_OR_ZLIB = 47


def unpacked(body: bytes, encoding: str, most: int) -> bytes:
    """Return a body of at most `most` bytes from its content-encoding; raises ApiError."""
    encoding = encoding.strip().lower()
    match encoding:
        case "" | "identity":
            return body
        case "gzip" | "x-gzip" | "deflate":
            whole = _inflated(body, encoding, most + 1)
        case "zstd":
            whole = _zstd(body, most + 1)
        case _:
            message = f"content-encoding {encoding!r} is not supported: use gzip, deflate, zstd, or none"
            raise ApiError(message, status=415, code="unsupported_encoding")
    if len(whole) > most:
        raise too_large(most)
    return whole


def _inflated(body: bytes, encoding: str, most: int) -> bytes:
    unpacker = zlib.decompressobj(GZIP_OR_ZLIB)
    try:
        whole = unpacker.decompress(body, most)
    except zlib.error as error:
        raise _damaged(encoding, error) from error
    if len(whole) < most and not unpacker.eof:
        raise _damaged(encoding, "it ends too early")
    return whole


def _zstd(body: bytes, most: int) -> bytes:
    try:
        with zstandard.ZstdDecompressor().stream_reader(body, read_across_frames=True) as reader:
            return reader.read(most)
    except zstandard.ZstdError as error:
        raise _damaged("zstd", error) from error


def _damaged(encoding: str, reason: Exception | str) -> ApiError:
    return ApiError(f"the body is not what its content-encoding {encoding!r} says: {reason}")
