"""`zs2kit verify`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import click

from zs2kit.cli import settings_file
from zs2kit.cli.options import PATH, RATE, TIME, build_filters
from zs2kit.cli.terminal import manners
from zs2kit.errors import ClipError, UsageError


@click.command()
@click.argument("source", type=PATH)
@click.argument("result", type=PATH)
@click.option("--start", type=TIME, metavar="TIME", help="As in the edit.")
@click.option("--end", type=TIME, metavar="TIME", help="As in the edit.")
@click.option("--fps", type=RATE, metavar="X", help="As in the edit.")
@click.option("--then", "filters", metavar="NAME", multiple=True, help="As in the edit; may be repeated.")
@click.option(
    "--set", "sets", metavar="NAME.OPTION=VALUE", multiple=True, help="As in the edit, for its filters."
)
@click.option("--report", type=PATH, metavar="JSON", help="The edit's report, instead of --then and --set.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify(
    source: Path,
    result: Path,
    start: Fraction | None,
    end: Fraction | None,
    fps: Fraction | None,
    filters: Sequence[str],
    sets: Sequence[str],
    report: Path | None,
    as_json: bool,
) -> None:
    """Check that RESULT has kept SOURCE's frames, times and sound.

    The size, the aspect ratio and the colour tags are checked, too. Pictures are not compared. With filters,
    RESULT must have the frames, times and size that these make of SOURCE's. Prints a line for every check,
    and exits with 1 if one of them fails.
    """
    if report and (filters or sets):
        raise UsageError("--report says which filters were used", "leave out --then and --set")
    with manners():
        filters, sets = settings_file.filters_of(report) if report else (filters, sets)
        used = build_filters(filters, sets)
        from zs2kit.verify import verify

        checks = verify(source, result, start=start, end=end, rate=fps, filters=used)
    lines = [f"{'ok' if each.ok else 'WRONG':7}{each.name}: {each.says}" for each in checks]
    click.echo(json.dumps([each._asdict() for each in checks], indent=2) if as_json else "\n".join(lines))
    if wrong := [each.name for each in checks if not each.ok]:
        raise ClipError(f"{result} differs from {source} in: {', '.join(wrong)}")
