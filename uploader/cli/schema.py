"""The command `schema`."""

from __future__ import annotations

import json

import click


@click.command(help="Print the JSON Schema of the graph file, of a job, or of a report: that of push, verify or heal.")
@click.argument("format", type=click.Choice(("graph", "report", "job", "verify", "heal")))
def schema(format: str) -> None:  # noqa: A002
    """Print it to standard output."""
    print(json.dumps(_schema(format), indent=2, ensure_ascii=False))


def _schema(name: str) -> object:
    if name == "graph":
        from uploader.sources.graph_file import graph_schema  # noqa: PLC0415

        return graph_schema()
    if name == "job":
        from uploader.service.job_format import job_schema  # noqa: PLC0415

        return job_schema()
    from pydantic import TypeAdapter  # noqa: PLC0415

    if name == "verify":
        from uploader.service.verify_report import VerifyReport  # noqa: PLC0415

        return TypeAdapter(VerifyReport).json_schema()
    if name == "heal":
        from uploader.service.heal_report import HealReport  # noqa: PLC0415

        return TypeAdapter(HealReport).json_schema()
    from uploader.service.report import Report  # noqa: PLC0415

    return TypeAdapter(Report).json_schema()
