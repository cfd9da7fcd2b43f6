"""`zs2kit models`."""

from __future__ import annotations

import json
import textwrap

import click

from zs2kit.networks.families import TRIED, Row, rows


@click.command()
@click.argument("model", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def models(model: str | None, as_json: bool) -> None:
    """List the families of models, or say which one MODEL belongs to.

    MODEL is anything that --model takes: a folder, a .safetensors file, a hub name, or a model that comes
    with zs2kit. No weights are read or downloaded.
    """
    if model is not None:
        from zs2kit.networks.loading import family_of  # imports diffusers, which takes seconds

        row = family_of(model)
        click.echo(json.dumps({"model": model, **row._asdict()}, indent=2) if as_json else _shown(row))
        return
    if as_json:
        click.echo(json.dumps([each._asdict() for each in rows()], indent=2))
        return
    for each in rows():
        click.echo(_shown(each))
    click.echo("\n" + textwrap.fill(TRIED, 104))


def _shown(row: Row) -> str:
    lines = (row.does, row.defaults, f"for example {row.hub}")
    return "\n".join(
        [
            row.family,
            *(textwrap.fill(line, 100, initial_indent=" " * 4, subsequent_indent=" " * 4) for line in lines),
        ]
    )
