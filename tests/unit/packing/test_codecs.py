from __future__ import annotations

import argparse
import gzip
import hashlib
import inspect
import tarfile
import typing

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from uploader.errors import InputError
from uploader.oci.media_types import OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD
from uploader.packing.codecs import CODECS, Codec, find_codec

EVERY_CODEC_AND_LEVEL = [
    pytest.param(find_codec(name, level), id=f"{name}-{level}")
    for name, codec in CODECS.items()
    for level in ([codec.levels[0], None, codec.levels[-1]] if codec.levels else [None])
]


def noise(size: int) -> bytes:
    """The same incompressible bytes every time."""
    return hashlib.shake_256(b"").digest(size)


def compress(codec: Codec, *parts: bytes) -> bytes:
    encoder = codec.encoder()
    return b"".join([*(encoder.compress(memoryview(part)) for part in parts), encoder.flush()])


def decompress(codec: Codec, data: bytes) -> bytes:
    match codec.compression:
        case "gzip":
            return gzip.decompress(data)
        case "zstd":
            return zstandard.ZstdDecompressor().decompressobj().decompress(data)
        case "none":
            return data


@pytest.mark.parametrize("codec", EVERY_CODEC_AND_LEVEL)
@settings(max_examples=25)
@given(parts=st.lists(st.binary(max_size=3000), max_size=5))
def test_what_goes_in_comes_out_and_is_the_same_every_time(codec: Codec, parts: list[bytes]) -> None:
    compressed = compress(codec, *parts)
    assert decompress(codec, compressed) == b"".join(parts)
    assert compress(codec, *parts) == compressed


@pytest.mark.parametrize("codec", EVERY_CODEC_AND_LEVEL)
def test_random_content_hardly_grows(codec: Codec) -> None:
    content = noise(1_000_000)
    assert len(compress(codec, content)) < 1_001_000


@pytest.mark.parametrize("name", ["gzip", "gzip-zlib", "zstd"])
def test_text_shrinks_and_a_higher_level_shrinks_it_more(name: str) -> None:
    content = b"".join(inspect.getsource(module).encode() for module in (argparse, tarfile, typing))
    levels = CODECS[name].levels
    lowest, highest = (len(compress(find_codec(name, level), content)) for level in (levels[0], levels[-1]))
    assert highest < lowest < len(content) / 3


@pytest.mark.parametrize("name", ["gzip", "gzip-zlib"])
def test_gzip_headers_hold_no_time_name_or_system(name: str) -> None:
    assert compress(find_codec(name), b"content").startswith(bytes.fromhex("1f8b 0800 00000000 00 ff"))


def test_gzip_zlib_is_what_python_writes() -> None:
    content = noise(5_000) * 50
    assert compress(find_codec("gzip-zlib"), content) == gzip.compress(content, 6, mtime=0).replace(
        bytes.fromhex("1f8b 0800 00000000 00 03"), bytes.fromhex("1f8b 0800 00000000 00 ff"), 1
    )


@pytest.mark.parametrize(
    ("name", "level", "media_type"),
    [
        ("gzip", 2, OCI_LAYER_GZIP),
        ("gzip-zlib", 6, OCI_LAYER_GZIP),
        ("zstd", 3, OCI_LAYER_ZSTD),
        ("none", 0, OCI_LAYER),
    ],
)
def test_defaults(name: str, level: int, media_type: str) -> None:
    codec = find_codec(name)
    assert (codec.name, codec.level, codec.media_type) == (name, level, media_type)


@pytest.mark.parametrize(
    ("name", "level", "reason"),
    [
        ("gzip", 0, "takes 1 to 3"),
        ("gzip", 4, "takes 1 to 3"),
        ("gzip-zlib", 0, "takes 1 to 9"),
        ("gzip-zlib", 10, "takes 1 to 9"),
        ("zstd", 0, "takes 1 to 19"),
        ("zstd", 20, "takes 1 to 19"),
        ("none", 1, "has no levels"),
        ("none", 0, "has no levels"),
        ("bzip2", None, "choose one of gzip, gzip-zlib, zstd, none"),
    ],
)
def test_what_a_codec_does_not_know_is_an_input_error(name: str, level: int | None, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        find_codec(name, level)


def test_a_chosen_level_is_used() -> None:
    assert find_codec("zstd", 7).level == 7
