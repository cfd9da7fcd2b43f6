"""`zs2kit filter`."""

from __future__ import annotations

import functools
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import click

from zs2kit.cli.edit import reading_options
from zs2kit.cli.options import PATH, Common, shared
from zs2kit.cli.terminal import Command
from zs2kit.errors import UsageError


@click.command("filter", cls=Command)
@click.argument("clip", type=PATH)
@reading_options
@shared(Common)
def filter_(
    clip: Path,
    out: Path | None,
    start: Fraction | None,
    end: Fraction | None,
    fps: Fraction | None,
    deinterlace: bool,
    reader: str,
    shared: Common,
) -> None:
    """Take CLIP through filters, without an edit: --then NAME for each of them.

    Once the result is complete, its name is printed; nothing else goes to standard output.
    """
    if not shared.filters:
        raise UsageError("no filter is named", "name one with --then; 'zs2kit filters' lists them")
    if start is not None and end is not None and start >= end:
        raise UsageError("`start` must be before `end`")
    with shared.manners(), shared.display() as display:
        display.stage("looking at the clip")
        filters = shared.build_filters()
        from zs2kit import io
        from zs2kit.filters import declared, through
        from zs2kit.io.reading import how_read

        how: dict[str, Any] = {
            "start": start,
            "end": end,
            "rate": fps,
            "deinterlace": deinterlace,
            "reader": reader,
        }
        read = functools.partial(io.read, clip, **how)
        source = read()
        out = out or io.name_beside(clip, shared.word, shared.output.get("codec"))
        output = shared.opened_output(out, display)
        output.check(declared(source, filters))
        shared.check_beside([clip, out])
        display.stage("loading the filters")
        made = through(filters[0](source), filters[1:])
        shared.save()
        display.stage("filtering")
        shared.write(output, made, display.update)
        display.stop()
        click.echo(os.fsencode(out))
        shared.write_sheet(out, read)
        if shared.report:
            shared.write_report(out, made, read, {"settings": how_read(**how)})
