"""The command `config`: what the settings are, and where each comes from."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from uploader.cli.push import as_push_options, push
from uploader.cli.running import fail
from uploader.cli.settings import NOT_IN_FILE, read_config, several_in
from uploader.errors import UploaderError

_FILE = click.option(
    "--config", type=click.Path(path_type=Path), envvar="UPLOADER_CONFIG", metavar="FILE", help="The TOML file."
)


@click.group(help="Show or check the settings: flags, UPLOADER_… variables, then the file of --config.")
def config() -> None:
    """Show or check."""


@config.command(help="Print every setting, its value, and where that comes from. Passwords are never shown.")
@_FILE
def show(config: Path | None) -> None:
    """Print `name = value  # origin`, as TOML; what is not set is a comment."""
    settings = _settings()
    try:
        in_file = read_config(config, set(settings)) if config else {}
    except UploaderError as error:
        fail(error)
    for name, (option, default) in sorted(settings.items()):
        variable = option.envvar
        if isinstance(variable, str) and variable in os.environ:
            text = os.environ[variable]
            print(f"{name} = {_toml(several_in(text) if option.multiple else text)}  # {variable}")
        elif name in in_file:
            print(f"{name} = {_toml(in_file[name])}  # {config}")
        elif default is None:
            print(f"# {name} is not set")
        else:
            print(f"{name} = {_toml(default)}  # default")
    for variable in ("UPLOADER_USERNAME", "UPLOADER_PASSWORD", "UPLOADER_USERNAME_FILE", "UPLOADER_PASSWORD_FILE"):
        if variable in os.environ:
            print(f"# {variable} is set")


@config.command(help="Check the file of --config and the UPLOADER_… variables; exit 2 when something is wrong.")
@_FILE
def check(config: Path | None) -> None:
    """Say what is wrong in one line, or that nothing is."""
    try:
        if config is not None:
            read_config(config, set(_settings()))
        arguments = ["SOURCE", "--to", "oci-layout:folder", *(["--config", str(config)] if config else [])]
        _check_values(push.make_context("push", arguments).params)
    except click.ClickException as error:
        fail(_as_input_error(error))
    except UploaderError as error:
        fail(error)
    print("the settings are in order")


def _check_values(given: dict[str, Any]) -> None:
    """What a push would refuse before it opens anything; raises InputError."""
    from uploader.model.reference import parse_image  # noqa: PLC0415

    options = as_push_options({name: given[name] for name in given.keys() - {"sources", "to", "report", "progress"}})
    if options.base_image is not None:
        parse_image(options.base_image)


def _as_input_error(error: click.ClickException) -> UploaderError:
    from uploader.errors import InputError  # noqa: PLC0415

    return InputError(error.format_message())


def _settings() -> dict[str, tuple[click.Option, object]]:
    """Name → its option and its default."""
    found: dict[str, tuple[click.Option, object]] = {}
    for parameter in push.params:
        name = max(parameter.opts, key=len).removeprefix("--").replace("-", "_")
        if name not in NOT_IN_FILE and isinstance(parameter, click.Option):
            found[name] = (parameter, _default(parameter))
    return found


def _toml(value: object) -> str:
    """A value of the kinds that settings have, as JSON writes it, which TOML reads the same."""
    return json.dumps(value, ensure_ascii=False, default=str).replace("\x7f", "\\u007f")


def _default(option: click.Option) -> object:
    if option.is_flag:
        return bool(option.default) and option.default is True
    return None if repr(option.default).startswith("Sentinel") else option.default
