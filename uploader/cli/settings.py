"""Settings: an option's value comes from its flag, else the environment, else the file of --config, else its default.

Each option has one name everywhere: `--limit-rate`, `UPLOADER_LIMIT_RATE`, and `limit_rate` in the TOML file.
"""

from __future__ import annotations

import os
import re
import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from uploader.errors import InputError
from uploader.oci.quota import read_quotas

if TYPE_CHECKING:
    from collections.abc import Callable

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kKmMgG]?)(i?)[bB]?(?:/s)?")
_FACTOR = {"": 0, "k": 1, "m": 2, "g": 3}
_MOST_BYTES = 1 << 60
NOT_IN_FILE = frozenset({"sources", "to", "config", "help", "server"})


class Setting(click.Option):
    """An option that a variable and a file may set, too.

    A variable may hold several values where the option may be repeated: click would split at blanks or `:`. A number
    from a file may be none that the option can be: click would cut it, or end in a traceback.
    """

    def value_from_envvar(self, ctx: click.Context) -> Any:
        """As click's, but for those several values."""
        text = self.resolve_envvar_value(ctx) if self.multiple else None
        return super().value_from_envvar(ctx) if text is None else several_in(text)

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        """As click's, but for those numbers."""
        if _is_odd(self, value):
            raise click.BadParameter(f"{value!r} is not a valid {self.type.name}.", ctx, self)
        return super().type_cast_value(ctx, value)


def _is_odd(option: click.Parameter, value: object) -> bool:
    """Whether it is a fraction for a whole number, or a number for a path."""
    if isinstance(option.type, click.Path):
        return isinstance(value, (int, float))
    return isinstance(value, float) and isinstance(option.type, click.types.IntParamType)


def several_in(text: str) -> list[str]:
    """The values in a variable: one a line, or on one line separated by commas."""
    values = text.split("\n" if "\n" in text else ",")
    return [value.strip() for value in values if value.strip()]


def setting(*names: str, **attributes: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """An option that is also a variable `UPLOADER_…` and a key of the configuration file."""
    attributes.setdefault("cls", Setting)
    name = max(names, key=len).removeprefix("--").replace("-", "_")
    attributes.setdefault("envvar", f"UPLOADER_{name.upper()}")
    return click.option(*names, **attributes)


def auth_realms_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """The option --auth-realms."""
    return setting(
        "--auth-realms",
        type=Commas(),
        default="",
        metavar="HOSTS",
        help="Token services elsewhere that may get the login; hosts here may also be inside a private network.",
    )(command)


def limit_requests_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """The option --limit-requests."""
    return setting(
        "--limit-requests",
        type=Quotas(),
        default="",
        metavar="[HOST=]N[/s|/m|/h]",
        help="A registry's quota of requests, where it is known and not found out: 60 a second, 2000/m, "
        "ghcr.io=2000/m; more than one separated by commas. A tenth of it is left to others.",
    )(command)


def config_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """The option --config: a TOML file whose keys become the defaults of the command's options."""
    return click.option(
        "--config",
        type=click.Path(path_type=Path),
        envvar="UPLOADER_CONFIG",
        is_eager=True,
        expose_value=False,
        callback=_load,
        metavar="FILE",
        help="Read settings from a TOML file; flags and UPLOADER_… variables come before it.",
    )(command)


def _load(context: click.Context, _: click.Parameter, path: Path | None) -> None:
    if path is not None:
        known = {name: option for name, option in _options(context.command).items() if name not in NOT_IN_FILE}
        context.default_map = {
            str(known[name].name): _checked(path, name, known[name], value, context)
            for name, value in read_config(path, set(known)).items()
        }


def _options(command: click.Command) -> dict[str, click.Parameter]:
    """Every parameter by its name in the file."""
    return {
        max(parameter.opts, key=len).removeprefix("--").replace("-", "_"): parameter
        for parameter in command.params
        if parameter.name
    }


def _checked(path: Path, name: str, option: click.Parameter, value: object, context: click.Context) -> object:
    """The value, as the option takes it; raises InputError that names the file, which click would not."""
    is_flag = isinstance(option, click.Option) and option.is_flag
    if isinstance(value, bool) != is_flag or _is_odd(option, value):
        wanted = "true or false" if is_flag else option.type.name
        raise InputError(f"the configuration {path}: {name} is {value!r}: expected {wanted}")
    try:
        if option.multiple:
            return [option.type(one, option, context) for one in (value if isinstance(value, list) else [value])]
        return option.type(",".join(value) if isinstance(value, list) else value, option, context)
    except click.BadParameter as error:
        raise InputError(f"the configuration {path}: {name}: {error.message}") from error


def read_config(path: Path, known: set[str]) -> dict[str, Any]:
    """The settings of a configuration file; raises InputError for one that is not TOML or has unknown keys."""
    try:
        with path.open("rb") as file:
            settings = tomllib.load(file)
    except OSError as error:
        raise InputError(f"cannot read the configuration {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # also for numbers of thousands of digits
        raise InputError(f"the configuration {path} is not TOML: {error}") from error
    for name in settings:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(sorted(known))}"
            raise InputError(f"the configuration {path} has an unknown key {name!r}{hint}")
    return {name: _plain(path, name, value) for name, value in settings.items()}


def _plain(path: Path, name: str, value: object) -> object:
    """A setting as a flag would give it; a list is what a flag that may be repeated would give."""
    if any("\0" in word for word in (value if isinstance(value, list) else [value]) if isinstance(word, str)):
        raise InputError(f"the configuration {path}: {name} holds a null character, which nothing can be called")
    if isinstance(value, list) and all(isinstance(word, str) for word in value):
        return value
    if not isinstance(value, (str, int, float, bool)):
        raise InputError(
            f"the configuration {path}: {name} is neither text, a number, true or false, nor a list of text"
        )
    return value


class Commas(click.ParamType[tuple[str, ...]]):
    """A list: words separated by commas."""

    name = "LIST"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Split; empty words are passed over, but not only commas."""
        if isinstance(value, (tuple, list)):
            return tuple(value)
        words = tuple(word.strip() for word in str(value).split(",") if word.strip())
        if value and not words:
            self.fail(f"{value!r} names nothing", param, ctx)
        return words


class Quotas(Commas):
    """A list of quotas, as `read_quotas` reads them."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Split, and look at each; they stay text."""
        words = super().convert(value, param, ctx)
        try:
            read_quotas(words)
        except InputError as error:
            self.fail(str(error), param, ctx)
        return words


class Size(click.ParamType[int]):
    """A number of bytes, with an optional K, M or G (1000), Ki, Mi or Gi (1024)."""

    name = "BYTES"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read it; fails as click does."""
        if isinstance(value, int):
            size: float = value
        elif match := _SIZE.fullmatch(str(value).strip()):
            size = float(match[1]) * (1024 if match[3] else 1000) ** _FACTOR[match[2].lower()]
        else:
            self.fail(f"{value!r} is not a number of bytes, such as 500000, 20M or 8MiB", param, ctx)
        if size > _MOST_BYTES:
            self.fail(f"{str(value)[:40]!r} is more than 1 EiB", param, ctx)
        return int(size)


def flatten(lists: tuple[tuple[str, ...], ...]) -> tuple[str, ...]:
    """One list out of an option that may be repeated."""
    return tuple(word for words in lists for word in words)


def default_state() -> Path:
    """Where the local record lies: $XDG_STATE_HOME/uploader/record.db; raises InputError where nothing says where."""
    try:
        home = os.environ.get("XDG_STATE_HOME") or str(Path("~/.local/state").expanduser())
    except RuntimeError:  # a container may run as a user that no passwd knows
        raise InputError(
            "nothing says where the local record lies, since this user has no home: give --state (PATH or none), "
            "or set XDG_STATE_HOME or HOME"
        ) from None
    return Path(home) / "uploader" / "record.db"
