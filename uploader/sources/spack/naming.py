"""What Spack calls a spec in a registry: its tag, its description, its platform."""

from __future__ import annotations

import json
import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from uploader.model.package import Platform

if TYPE_CHECKING:
    from collections.abc import Mapping

    from uploader.sources.spack.database import DatabaseVersion, Record

_LONGEST_TAG: Final = 128
_FLAGS: Final = frozenset({"cflags", "cppflags", "cxxflags", "fflags", "ldflags", "ldlibs"})
_PLAIN_VALUE: Final = re.compile(r"[a-zA-Z0-9,/_.-]+")
_PLAIN_VALUE_8: Final = re.compile(r"[a-zA-Z0-9,/_.\-\[\]]+")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")

_GO_NAMES: Final[Mapping[str, str]] = MappingProxyType({"x86_64": "amd64", "aarch64": "arm64"})
# What is not a generic target, by family; the names are archspec's.
_FAMILIES: Final[Mapping[str, str]] = MappingProxyType(
    {
        name: family
        for family, names in {
            "x86_64": "x86_64_v2 x86_64_v3 x86_64_v4 nocona core2 nehalem westmere sandybridge ivybridge haswell "
            "broadwell skylake mic_knl skylake_avx512 cannonlake cascadelake icelake sapphirerapids k10 bulldozer "
            "piledriver steamroller excavator zen zen2 zen3 zen4 zen5",
            "aarch64": "armv8.1a armv8.2a armv8.3a armv8.4a armv8.5a armv8.6a armv9.0a thunderx2 a64fx cortex_a72 "
            "neoverse_n1 neoverse_v1 neoverse_n2 neoverse_v2 m1 m2 m3 m4",
            "x86": "i686 pentium2 pentium3 pentium4 prescott",
            "ppc64": "power7 power8 power9 power10",
            "ppc64le": "power8le power9le power10le",
            "riscv64": "u74mc",
        }.items()
        for name in names.split()
    }
)
_VENDORS: Final[Mapping[str, str]] = MappingProxyType(
    {"GenuineIntel": "x86_64", "AuthenticAMD": "x86_64", "ARM": "aarch64", "Apple": "aarch64"}
)


def spack_tag(name: str, version: str, hash_: str) -> str:
    """The tag under which Spack looks for the spec. It may be none that a registry takes."""
    tag = re.sub(r"[^\w.-]", "_", f"{name}-{version}-{hash_}.spack")
    return tag if len(tag) <= _LONGEST_TAG else tag[: _LONGEST_TAG // 2] + tag[-_LONGEST_TAG // 2 :]


def platform(record: Record) -> Platform:
    """Linux, and the family of the target: the image runs on older processors only if the compiler let it."""
    target = (record.spec.get("arch") or {}).get("target", "")
    vendor = target.get("vendor", "") if isinstance(target, dict) else ""
    name = str(target.get("name", "")) if isinstance(target, dict) else str(target)
    family = _FAMILIES.get(name) or _VENDORS.get(str(vendor)) or name or "x86_64"
    return Platform("linux", _GO_NAMES.get(family, family))


def description(record: Record, version: DatabaseVersion) -> str:
    """The spec in one line, as the two kinds of Spack print it: 0.x with its compiler, 1.x without."""
    spec = record.spec
    arch = spec.get("arch") or {}
    target = arch.get("target", "")
    target = target.get("name", "") if isinstance(target, dict) else target
    text = f"{record.name}@{_version(record.version)}"
    parameters = spec.get("parameters") or {}
    if version == "7":
        compiler = spec.get("compiler")
        text += f"%{compiler['name']}@{_version(compiler['version'])}" if compiler else ""
        text += _flags(parameters, _PLAIN_VALUE) + _variants(parameters, _PLAIN_VALUE, of_lists="=")
        return f"{text} arch={arch.get('platform')}-{arch.get('platform_os')}-{target}"
    text += _flags(parameters, _PLAIN_VALUE_8) + _variants(parameters, _PLAIN_VALUE_8, of_lists=":=")
    return f"{text} platform={arch.get('platform')} os={arch.get('platform_os')} target={target}"


def _version(version: str) -> str:
    """With `=`, since it is this version and no series; versions made of a commit go without."""
    is_git = version.startswith("git.") or "=" in version or _COMMIT.fullmatch(version)
    return version if is_git else f"={version}"


def _flags(parameters: Mapping[str, Any], plain: re.Pattern[str]) -> str:
    """` cflags=-O2 `: where there are any, a space follows."""
    given = [
        f" {key}={_quoted(' '.join(_words(parameters[key])), plain)}" for key in sorted(_FLAGS) if parameters.get(key)
    ]
    return "".join(given) + " " if given else ""


def _variants(parameters: Mapping[str, Any], plain: re.Pattern[str], *, of_lists: str) -> str:
    """Switches first, then the others; each by name."""
    switches, others = [], []
    for key in sorted(parameters.keys() - _FLAGS):
        value = parameters[key]
        if str(value).upper() in {"TRUE", "FALSE"}:
            switches.append(f"{'+' if str(value).upper() == 'TRUE' else '~'}{key}")
        elif isinstance(value, list):
            words = [word[:7] if key == "patches" else word for word in _words(value)]
            others.append(f" {key}{of_lists}{_quoted(','.join(words) or _EMPTY[of_lists], plain)}")
        else:
            others.append(f" {key}={_quoted(str(value), plain)}")
    return "".join(switches + others)


def _words(value: object) -> list[str]:
    return [str(word) for word in value] if isinstance(value, list) else [str(value)]


_EMPTY: Final[Mapping[str, str]] = MappingProxyType({"=": "", ":=": "*"})


def _quoted(value: str, plain: re.Pattern[str]) -> str:
    if plain.fullmatch(value):
        return value
    return json.dumps(value) if "'" in value else f"'{value}'"
