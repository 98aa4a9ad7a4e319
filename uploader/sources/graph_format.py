"""What the graph file `uploader/graph/v1` may hold.

The models are the one description of the format: they check it, they are published as JSON Schema, and
their descriptions end the messages ("… is 7: expected the package's name"). Only the first fault is told.
"""

from __future__ import annotations

import difflib
import json
import posixpath
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from uploader.errors import InputError
from uploader.oci import media_types

if TYPE_CHECKING:
    from collections.abc import Sequence

SCHEMA = "uploader/graph/v1"

_LAYER_TYPES = (
    media_types.OCI_LAYER,
    media_types.OCI_LAYER_GZIP,
    media_types.OCI_LAYER_ZSTD,
    media_types.DOCKER_LAYER,
    media_types.DOCKER_LAYER_GZIP,
)
# Keys of the image config that the push sets. Go reads keys without regard to case, so "RootFS" is one too.
_OWN_CONFIG_KEYS = frozenset({"architecture", "os", "variant", "rootfs", "config", "created", "history"})
_OWN_ANNOTATIONS = "dev.uploader."


def _layer_type(text: str) -> str:
    if text not in _LAYER_TYPES:
        raise ValueError(f"{text[:100]!r} is not the media type of a tar layer: {', '.join(_LAYER_TYPES)}")
    return text


def _image_path(text: str) -> str:
    normal = "/" + posixpath.normpath(text).lstrip("/")
    if not text.startswith("/") or ".." in text.split("/") or text != normal:
        raise ValueError(f"{text[:200]!r} is not an absolute path without '..', '.', '//' or '/' at its end")
    return text


def _own_annotations(annotations: dict[str, str]) -> dict[str, str]:
    for key in annotations:
        if key.startswith(_OWN_ANNOTATIONS):
            raise ValueError(f"{key[:100]!r} is set by the push itself: leave out {_OWN_ANNOTATIONS}*")
    return annotations


def _own_config_keys(config: dict[str, Any]) -> dict[str, Any]:
    for key in config:
        if key.casefold() in _OWN_CONFIG_KEYS:
            raise ValueError(f"{key[:100]!r} is set by the push itself and cannot be given")
    return config


_CONTROL = r"\x00-\x1f\x7f-\x9f\u2028\u2029"
_Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
_Line = Annotated[str, StringConstraints(pattern=rf"^[^{_CONTROL}]*$", max_length=1024)]
_Name = Annotated[str, StringConstraints(pattern=rf"^[^{_CONTROL}]+$", max_length=1024)]
_Path = Annotated[str, StringConstraints(pattern=r"^[^\x00]+$", max_length=4096)]
_Digest = Annotated[str, StringConstraints(pattern=r"^(sha256:[a-f0-9]{64}|sha512:[a-f0-9]{128})$")]
_Tag = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$")]
_EnvName = Annotated[str, StringConstraints(pattern=r"^[^=\x00]+$")]
_EnvValue = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$")]


class _Entry(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class PlatformEntry(_Entry):
    """The system that packages run on, in the words of the OCI image specification."""

    os: _Word = Field(description="the operating system, such as linux")
    architecture: _Word = Field(description="the processor as Go calls it, such as amd64 or arm64")
    variant: _Word | None = Field(None, description="the variant of the processor, such as v8")


class BlobEntry(_Entry):
    """A ready layer: a tar, tar.gz or tar.zst file. What is not given is computed from the file."""

    path: _Path = Field(description="the path of the file, relative to the graph file")
    digest: _Digest | None = Field(None, description="the digest of the file: sha256: and 64 hex digits")
    size: int | None = Field(None, ge=0, lt=1 << 63, description="the size of the file, a number of bytes")
    media_type: Annotated[str, AfterValidator(_layer_type)] | None = Field(
        None, description="the media type of the layer", json_schema_extra={"enum": [*_LAYER_TYPES, None]}
    )
    diff_id: _Digest | None = Field(
        None, description="the digest of the tar inside the file: sha256: and 64 hex digits"
    )


class PackageEntry(_Entry):
    """One package. It has a blob or a prefix, not both; neither only where push is false."""

    model_config = ConfigDict(
        json_schema_extra={
            "not": {"properties": {"blob": {"type": "object"}, "prefix": {"type": "string"}},
                    "required": ["blob", "prefix"]},
            "anyOf": [{"required": ["blob"]}, {"required": ["prefix"]},
                      {"properties": {"push": {"const": False}}, "required": ["push"]}],
        }
    )  # fmt: skip

    id: _Name = Field(description="the package's id: a line of 1 to 1024 characters, unique in the graph")
    name: _Name = Field(description="the package's name: a line of 1 to 1024 characters")
    version: _Line = Field(description="the package's version: a line of at most 1024 characters")
    tag: _Tag | None = Field(
        None,
        description="the tag in the repository: 1 to 128 letters, digits, '_', '.' or '-', the first not '.' "
        "or '-' (when left out, NAME-VERSION-ID made valid)",
    )
    blob: BlobEntry | None = Field(None, description="the package's content as a ready layer, an object")
    prefix: _Path | None = Field(
        None, description="the folder to pack as the package's content: a path relative to the graph file"
    )
    at: Annotated[_Path, AfterValidator(_image_path)] | None = Field(
        None, description="where the prefix lies in the image: an absolute path (default: the folder's own)"
    )
    dependencies: list[_Name] = Field([], description="a list of the ids that the package needs at run time")
    env: dict[_EnvName, _EnvValue] = Field(
        {},
        description="environment variables: names without '=', names and values texts without NUL",
        json_schema_extra={"additionalProperties": False},
    )
    annotations: Annotated[dict[_Name, str], AfterValidator(_own_annotations)] = Field(
        {},
        description="annotations of the manifest: names are lines, values are texts",
        json_schema_extra={"additionalProperties": False},
    )
    config: Annotated[dict[str, Any], AfterValidator(_own_config_keys)] = Field(
        {}, description="an object with extra keys of the image config"
    )
    push: bool = Field(True, description="true, or false for a package that may not be redistributed")
    platform: PlatformEntry | None = Field(None, description="the platform, where it is not the graph's: an object")


class Header(_Entry):
    """The keys beside `packages`; the first line of JSON Lines."""

    format: Literal["uploader/graph/v1"] = Field(alias="schema", description=f'the text "{SCHEMA}"')
    platform: PlatformEntry | None = Field(
        None, description="the platform of all packages that do not say their own: an object (linux, amd64)"
    )


class GraphDocument(Header):
    """A graph of packages. As JSON Lines: first a line without `packages`, then each package on a line."""

    packages: list[PackageEntry] = Field(min_length=1, description="a list of packages")


_MODELS: dict[str, type[_Entry]] = {"blob": BlobEntry, "platform": PlatformEntry}


def graph_schema() -> dict[str, Any]:
    """The JSON Schema of the format."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return schema | GraphDocument.model_json_schema(by_alias=True) | {"title": SCHEMA}


_Model = TypeVar("_Model", bound=_Entry)


def checked(model: type[_Model], raw: object) -> _Model:
    """`raw` as this model; raises InputError that names the key, its value, and what is expected there."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise InputError(_fault(model, error)) from None


def shown(value: object) -> str:
    """A JSON value in a message: on one line, not too long; of lists and objects only what they are."""
    match value:
        case dict():
            return "an object"
        case list():
            return "a list"
        case str():
            return repr(value) if len(value) <= 100 else f"{value[:100]!r}…"
        case int() if not isinstance(value, bool) and abs(value) >= 10**30:
            return "a huge number"
        case _:
            return json.dumps(value)


def _fault(model: type[_Entry], error: ValidationError) -> str:
    """The first fault in words; an unknown key goes first, because a misspelt one is also a missing one."""
    first = min(error.errors(include_url=False), key=lambda fault: fault["type"] != "extra_forbidden")
    *path, last = location = first["loc"] or ("",)
    owner = _MODELS[str(path[0])] if path and path[0] in _MODELS else model
    known = GraphDocument if owner is Header else owner  # "pakages" is a misspelt "packages"
    fields = {field.alias or name: field for name, field in known.model_fields.items()}
    key = f'"{_dotted(location)}"'
    match first["type"]:
        case "extra_forbidden":
            near = difflib.get_close_matches(str(last)[:100], fields, 1, 0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(fields)}"
            return f"unknown key {key}: {hint}"
        case "value_error":
            return f"{key}: {first['ctx']['error']}"
        case _ if not first["loc"]:
            return f"it is {shown(first['input'])}: expected an object"
    described = fields[str(location[1] if owner is not model else location[0])].description
    what = "is missing" if first["type"] == "missing" else f"is {shown(first['input'])}"
    return f"{key} {what}: expected {described}"


def _dotted(location: Sequence[int | str]) -> str:
    """`blob.size`, `dependencies[3]`."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part != "[key]":  # pydantic's mark for a fault in the key itself
            word = part if part.isidentifier() and len(part) <= 100 else repr(part[:100])
            text += f".{word}" if text else word
    return text
