"""`zs2kit plan`."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path

import click

from zs2kit.cli.edit import source_options
from zs2kit.cli.options import FILES, PATH, Shared, flag, shared
from zs2kit.cli.terminal import Command, worded_here
from zs2kit.errors import ClipError, Notice


@click.command(cls=Command)
@click.argument("clip", type=PATH)
@source_options
@flag(
    "--preview",
    type=PATH,
    metavar="PNG",
    group=FILES,
    help="Also edit the first frame of each shot, and write a sheet of them, with the source above the "
    "result.",
)
@flag("--json", "as_json", is_flag=True, group=FILES, help="Print JSON.")
@shared()
def plan(
    clip: Path,
    prompt: str | None,
    out: Path | None,
    start: Fraction | None,
    end: Fraction | None,
    fps: Fraction | None,
    deinterlace: bool,
    reader: str,
    preview: Path | None,
    as_json: bool,
    shared: Shared,
) -> None:
    """Print what `zs2kit edit` with the same options will do, and what time, memory and disk it needs.

    Reads CLIP once, and takes one denoising step to estimate the time of all. Writes nothing of the result.
    Exits with 1 if the edit couldn't start.
    """
    said: list[Notice] = []
    with shared.manners(notices=said.append), shared.display() as display:
        display.stage("looking at the clip")
        chosen, filters = shared.build()
        from zs2kit import io

        source = io.read(clip, start=start, end=end, rate=fps, deinterlace=deinterlace, reader=reader)
        out = out or io.name_beside(clip, shared.word, shared.output.get("codec"))
        output = io.Output(out, **shared.output)
        obstacles: tuple[str, ...] = ()
        try:
            shared.check_beside([clip, out])
        except ClipError as error:
            obstacles = (str(error),)
        if preview:
            from zs2kit.beside import check_beside

            check_beside(preview, ".png", "sheet", [clip, out], output.overwrite)
        display.stage("loading the model")
        model = shared.load(chosen)
        from zs2kit.editing import edit
        from zs2kit.filters import through
        from zs2kit.plan import lines, plan
        from zs2kit.sheet import Sheet

        shared.say_prompt(prompt, model)
        edited = edit(source, prompt, plugins=chosen, model=model, **shared.settings)
        shared.save()
        display.stage("planning")
        sheet = Sheet(edited)
        found = plan(
            through(edited, filters),
            output,
            progress=display.update,
            preview=sheet.add if preview else None,
        )
        found = replace(found, obstacles=tuple(map(worded_here, (*found.obstacles, *obstacles))))
        if preview:
            sheet.write(preview)
    warnings = [worded_here(str(each)) for each in said]
    about = {**asdict(found), "warnings": warnings}
    warned = [f"{'warning':12}{each}" for each in warnings]
    click.echo(json.dumps(about, indent=2, default=str) if as_json else "\n".join([*lines(found), *warned]))
    if found.obstacles:
        raise ClipError(f"the edit can't start: {'; '.join(found.obstacles)}")
