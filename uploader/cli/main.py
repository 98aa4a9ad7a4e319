"""The program's commands, each imported when it is called."""

from __future__ import annotations

import sys
from importlib import import_module

import click

from uploader.cli.running import fail
from uploader.cli.streams import lose_output, make_streams_last
from uploader.errors import InputError, UploaderError

_COMMANDS = {
    "push": ("uploader.cli.push", "push", "Push the packages of sources to a repository, now."),
    "plan": ("uploader.cli.push", "plan", "Say what a push would do; send nothing."),
    "verify": ("uploader.cli.verify", "verify", "Check that what the tags point at is there and agrees."),
    "heal": ("uploader.cli.heal", "heal", "Complete manifests; with a source, push what is gone or damaged."),
    "index": ("uploader.cli.index", "index", "Make the index of a Spack build cache anew, from its tags."),
    "serve": ("uploader.cli.serve", "serve", "The daemon: takes in pushes as jobs, and carries them out."),
    "submit": ("uploader.cli.daemon", "submit", "Hand a push to the daemon."),
    "jobs": ("uploader.cli.daemon", "jobs", "List the daemon's jobs, or show one."),
    "cancel": ("uploader.cli.daemon", "cancel", "Cancel a job."),
    "retry": ("uploader.cli.daemon", "retry", "Try a job again that failed, died or was cancelled; or all dead ones."),
    "schema": ("uploader.cli.schema", "schema", "Print the JSON Schema of a format."),
    "config": ("uploader.cli.config", "config", "Show or check the settings."),
}

_HELP = """Push graphs of packages to OCI registries: concurrent, best effort, with an honest report.

\b
A first push, from a graph file to a registry:
  uploader push graph.json --to oci://ghcr.io/org/cache
To a folder, without any registry:
  uploader push graph.json --to oci-layout:cache
An installed Python environment:
  uploader push python:.venv --to oci-layout:cache

\b
Exit status: 0 all done; 1 some packages failed; 2 bad input, nothing sent;
3 the registry could not be used; 130 and 143 interrupted.
"""


class _Commands(click.Group):
    """Knows its commands by name, and imports only the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        module, name, _ = _COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in _COMMANDS.items()])


@click.group(cls=_Commands, help=_HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="uploader", message="uploader %(version)s")
def cli() -> None:
    """Run one of the commands."""


def run() -> None:
    """Run the command line; what is wrong with the input, wherever it is noticed, is said in one line."""
    make_streams_last()
    try:
        status = cli(prog_name="uploader", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        status = error.exit_code
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "uploader"
        fail(InputError(f"{error.format_message().rstrip('.')}; see `{where} --help`"))
    except click.ClickException as error:
        fail(InputError(error.format_message()))
    except (click.Abort, KeyboardInterrupt):
        status = 130
    except BrokenPipeError:  # whoever read what we print has seen enough
        lose_output()
        status = 1
    except UploaderError as error:
        fail(error)
    sys.exit(status if isinstance(status, int) else 0)
