"""`zs2kit models`."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import click

from zs2kit.cli.options import PATH
from zs2kit.errors import ModelError
from zs2kit.networks.families import TRIED, described, rows


@click.command()
@click.argument("folder", type=PATH, required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def models(folder: Path | None, as_json: bool) -> None:
    """List the families of models that can be used, or say which family the checkpoint in FOLDER belongs to.

    No weights are read.
    """
    if folder is not None:
        says = _described(folder)
        click.echo(json.dumps({"folder": str(folder), "family": says}) if as_json else says)
        return
    if as_json:
        click.echo(json.dumps([each._asdict() for each in rows()], indent=2))
        return
    for family, does, defaults, hub in rows():
        click.echo(family)
        for line in (does, defaults, f"for example {hub}"):
            click.echo(textwrap.fill(line, 100, initial_indent="    ", subsequent_indent="    "))
    click.echo("\n" + textwrap.fill(TRIED, 104))


def _described(folder: Path) -> str:
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        return described(str(index["_class_name"]), frozenset(index))
    except FileNotFoundError:
        raise ModelError(f"{folder} is not a checkpoint, since it has no model_index.json") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder}: its model_index.json can't be read", "download it again") from error
