"""Content encodings of request bodies: unpacked only as far as the limit allows, and only whole.

aiohttp would unpack too, but without zstd, and without our bound.
"""

import gzip
import io
import zlib

import zstandard

from nexrl_ingest.refusals import RefusedError, TooLargeError, UnsupportedError

ENCODINGS = "identity, gzip, deflate or zstd"
MOST_FRAMES = 1000
"""Of zstd in one body; each costs time however little it holds."""
_ZSTD_STEP = 1024
"""Compressed bytes taken at once: they hold 256 blocks of 128 KiB at most."""


def decompress(data: bytes, encoding: str, limit: int) -> bytes:
    """Undo a Content-Encoding; raises TooLargeError before more than `limit` bytes are held."""
    try:
        match encoding.strip().lower():
            case "" | "identity":
                plain = data
            case "gzip" | "x-gzip":
                plain = _gunzip(data, limit + 1)
            case "deflate":
                plain = _inflate(data, limit + 1)
            case "zstd":
                plain = _unzstd(data, limit + 1)
            case _:
                raise UnsupportedError(f"Content-Encoding {encoding[:80]!r}: use {ENCODINGS}")
    except (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
        raise RefusedError(f"the body is not what its Content-Encoding {encoding[:80]!r} says: {error}") from error
    if len(plain) > limit:
        raise TooLargeError(f"the body is larger than {limit} bytes once decompressed: send less at a time")
    return plain


def _gunzip(data: bytes, most: int) -> bytes:
    """Decompress all members of a gzip file."""
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        return file.read(most)


def _inflate(data: bytes, most: int) -> bytes:
    stream = zlib.decompressobj()
    plain = stream.decompress(data, most)
    if len(plain) < most and not stream.eof and data:
        raise EOFError("the stream ends in the middle")
    return plain


def _unzstd(data: bytes, most: int) -> bytes:
    """Decompress at once what says that it is small enough, and everything else little by little."""
    # Of an empty first frame the library says nothing more, whatever follows it.
    if data and 0 < zstandard.frame_content_size(data) < most:
        try:
            return zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False)
        except zstandard.ZstdError:
            return _unzstd_by_steps(data, most)
    return _unzstd_by_steps(data, most)


def _unzstd_by_steps(data: bytes, most: int) -> bytes:
    """Decompress little by little: a frame cut short is seen, several are joined, a bomb is not swallowed whole."""
    plain = bytearray()
    frames = 1
    frame = zstandard.ZstdDecompressor().decompressobj()
    for start in range(0, len(data), _ZSTD_STEP):
        rest = data[start : start + _ZSTD_STEP]
        while rest:
            if frame.eof:
                frames += 1
                frame = zstandard.ZstdDecompressor().decompressobj()
            plain += frame.decompress(rest)
            rest = frame.unused_data
        if frames > MOST_FRAMES:
            raise TooLargeError(f"the body has more than {MOST_FRAMES} zstd frames: compress it as one")
        if len(plain) >= most:
            return bytes(plain)
    if data and not frame.eof:
        raise zstandard.ZstdError("the frame ends in the middle")
    return bytes(plain)
