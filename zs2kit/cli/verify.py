"""`zs2kit verify`."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import click

from zs2kit.cli.options import PATH, RATE, TIME
from zs2kit.cli.terminal import manners
from zs2kit.errors import ClipError


@click.command()
@click.argument("source", type=PATH)
@click.argument("result", type=PATH)
@click.option("--start", type=TIME, metavar="TIME", help="As in the edit.")
@click.option("--end", type=TIME, metavar="TIME", help="As in the edit.")
@click.option("--fps", type=RATE, metavar="X", help="As in the edit.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify(
    source: Path,
    result: Path,
    start: Fraction | None,
    end: Fraction | None,
    fps: Fraction | None,
    as_json: bool,
) -> None:
    """Check that RESULT has SOURCE's frames, times, size, aspect ratio, colour tags and sound.

    Pictures are not compared. Prints a line for every check, and exits with 1 if one of them fails.
    """
    with manners():
        from zs2kit.verify import verify

        checks = verify(source, result, start=start, end=end, rate=fps)
    lines = [f"{'ok' if each.ok else 'WRONG':7}{each.name}: {each.says}" for each in checks]
    click.echo(json.dumps([each._asdict() for each in checks], indent=2) if as_json else "\n".join(lines))
    if wrong := [each.name for each in checks if not each.ok]:
        raise ClipError(f"{result} differs from {source} in: {', '.join(wrong)}")
