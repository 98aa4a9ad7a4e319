"""The command `schema`."""

from __future__ import annotations

import json

import click


@click.command(help="Print the JSON Schema of the graph file or of the report.")
@click.argument("format", type=click.Choice(("graph", "report")))
def schema(format: str) -> None:  # noqa: A002
    """Print it to standard output."""
    print(json.dumps(_schema(format), indent=2, ensure_ascii=False))


def _schema(name: str) -> object:
    if name == "graph":
        from uploader.sources.graph_file import graph_schema  # noqa: PLC0415

        return graph_schema()
    from pydantic import TypeAdapter  # noqa: PLC0415

    from uploader.service.report import Report  # noqa: PLC0415

    return TypeAdapter(Report).json_schema()
