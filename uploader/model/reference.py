"""Where a push goes: a repository of a registry, or an image layout folder (distribution-spec, "Pull")."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from ipaddress import IPv6Address
from pathlib import Path
from typing import Literal, NewType

from uploader.errors import InputError
from uploader.model.digest import Digest

Tag = NewType("Tag", str)

_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_NAME = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[(?P<address>[0-9A-Fa-f:.]+)\])(?::(?P<port>[0-9]{{1,5}}))?")
_LONGEST_TAG = 128


@dataclass(frozen=True, slots=True, order=True)
class Registry:
    """A registry: `host` or `host:port`, spoken to by `scheme`."""

    scheme: Literal["http", "https"]
    host: str

    @property
    def origin(self) -> str:
        """`scheme://host`, where its requests go (Docker Hub's API has a host of its own)."""
        host = "registry-1.docker.io" if self.host in {"docker.io", "index.docker.io"} else self.host
        return f"{self.scheme}://{host}"


@dataclass(frozen=True, slots=True, order=True)
class Repository:
    """A repository `name` in a registry."""

    registry: Registry
    name: str

    def __str__(self) -> str:
        scheme = "oci" if self.registry.scheme == "https" else "oci+http"
        return f"{scheme}://{self.registry.host}/{self.name}"


@dataclass(frozen=True, slots=True)
class LayoutFolder:
    """An OCI image layout folder (image-spec, image-layout.md)."""

    path: Path

    def __str__(self) -> str:
        return f"oci-layout:{self.path}"


Destination = Repository | LayoutFolder


def parse_destination(text: str) -> Destination:
    """Read `oci://HOST/NAME`, `oci+http://HOST/NAME`, `HOST/NAME` or `oci-layout:PATH`; raises InputError."""
    if text.startswith("oci-layout:"):
        path = text.removeprefix("oci-layout:")
        if not path or "\0" in path:
            raise InputError(f"destination {text!r} names no folder: write oci-layout:PATH")
        return LayoutFolder(Path(path))
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "oci", text
    host, _, name = rest.rstrip("/").partition("/")
    if "@" in host:  # before anything else, since other messages show the text
        raise InputError(
            "destination: a reference holds no user or password; use `docker login`, "
            "or UPLOADER_USERNAME and UPLOADER_PASSWORD"
        )
    match scheme:
        case "oci":
            http: Literal["http", "https"] = "https"
        case "oci+http":
            http = "http"
        case _:
            raise InputError(
                f"destination {text[:200]!r}: unknown scheme; write oci://HOST/REPOSITORY, "
                "oci+http://HOST/REPOSITORY or oci-layout:PATH"
            )
    return Repository(Registry(http, _host(text, host)), _name(text, name))


def _host(text: str, host: str) -> str:
    match = _HOST.fullmatch(host)
    if match is None or int(match["port"] or 0) > 65535 or not _is_ipv6(match["address"] or "::"):
        raise InputError(f"destination {text[:200]!r}: {host[:100]!r} is not a host name with an optional port")
    return host.lower()


def _is_ipv6(address: str) -> bool:
    try:
        IPv6Address(address)
    except ValueError:
        return False
    return True


def _name(text: str, name: str) -> str:
    lowered = name.lower()
    if not lowered:
        raise InputError(f"destination {text[:200]!r} names no repository: write oci://HOST/REPOSITORY")
    if not _NAME.fullmatch(lowered) or len(lowered) > 255:
        raise InputError(
            f"destination {text[:200]!r}: {name[:100]!r} is not a repository name (letters, digits and "
            "single . _ - between them, parts separated by /, no tag or digest)"
        )
    return lowered


@dataclass(frozen=True, slots=True)
class ImageReference:
    """An image somewhere: a tag or a digest in a repository or a layout folder."""

    where: Destination
    reference: Tag | Digest

    def __str__(self) -> str:
        return f"{self.where}{'@' if isinstance(self.reference, Digest) else ':'}{self.reference}"


def parse_image(text: str) -> ImageReference:
    """Read `HOST/NAME:TAG`, `HOST/NAME@DIGEST` or `oci-layout:PATH:TAG`, with a scheme or without; raises InputError.

    As everywhere, a name without a host is Docker Hub's, and the tag is `latest` where none is given.
    """
    if text.startswith("oci-layout:"):
        place, colon, tag = text.removeprefix("oci-layout:").rpartition(":")
        if not colon or not place:
            raise InputError(f"image {text[:200]!r} names no tag: write oci-layout:PATH:TAG")
        return ImageReference(LayoutFolder(Path(place)), parse_tag(tag))
    place, at, digest = text.partition("@")
    scheme, separator, rest = place.rpartition("://")
    name, colon, tag = rest.rpartition(":")
    if not colon or "/" in tag:
        name, tag = rest, "latest"
    if not name:  # else docker.io/library would be the repository
        raise InputError("the image has no name: write HOST/NAME:TAG or oci-layout:PATH:TAG")
    host = name.partition("/")[0]
    if "/" not in name or not (set(".:") & set(host) or host == "localhost"):
        name = f"docker.io/{name}" if "/" in name else f"docker.io/library/{name}"
    where = parse_destination(f"{scheme}{separator}{name}")
    return ImageReference(where, Digest.parse(digest) if at else parse_tag(tag))


def parse_tag(text: str) -> Tag:
    """Check that `text` is a tag (distribution-spec, "Pulling manifests"); raises InputError."""
    if not _TAG.fullmatch(text):
        raise InputError(
            f"{text[:150]!r} is not a tag: 1 to 128 letters, digits, '_', '.' or '-', the first not '.' or '-'"
        )
    return Tag(text)


def tag_from(text: str) -> Tag:
    """A valid tag made of `text`: other characters become `_`; what does not fit gives way to a hash."""
    tag = re.sub(r"[^a-zA-Z0-9_.-]", "_", text)
    if tag[:1] in {".", "-", ""}:
        tag = "_" + tag[1:]
    return with_short_hash(tag, text) if len(tag) > _LONGEST_TAG else Tag(tag)


def with_short_hash(tag: str, text: str) -> Tag:
    """`tag`, cut where needed, with a hash of `text` behind it: for tags too long, or used twice."""
    short = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return Tag(f"{tag[: _LONGEST_TAG - 9]}-{short}")
