"""`zs2kit plan`."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zs2kit.cli.edit import source_options
from zs2kit.cli.jobs import HANDLES, PROMPTS, Job, jobs_of
from zs2kit.cli.options import FILES, PATH, Shared, flag, shared
from zs2kit.cli.terminal import Command, worded_here
from zs2kit.errors import ClipError, Notice, UsageError

if TYPE_CHECKING:
    from zs2kit.clip import Clip
    from zs2kit.plan import Plan


@click.command(cls=Command)
@click.argument("clips", metavar="CLIP...", type=PATH, nargs=-1, required=True)
@source_options
@PROMPTS
@HANDLES
@flag(
    "--preview",
    type=PATH,
    metavar="PNG",
    group=FILES,
    help="Also edit the first frame of each shot, and write a sheet of them, with the source above the "
    "result; for several clips, a folder.",
)
@flag("--json", "as_json", is_flag=True, group=FILES, help="Print JSON; for several clips, a list.")
@shared()
def plan(
    clips: Sequence[Path],
    prompt: str | None,
    table: Path | None,
    handles: int | None,
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
    """Say what an edit would do, and what it would need.

    The options are those of `zs2kit edit`. Reads CLIP once, and takes one denoising step to estimate how long
    all of them take. Writes no result. Exits with 1 if the edit couldn't start.
    """
    said: list[Notice] = []
    plans: list[tuple[Job[Shared], Plan]] = []
    with shared.manners(notices=said.append), shared.display() as display:
        display.stage("looking at the clip" if len(clips) == 1 else "looking at the clips")
        chosen, filters = shared.build()
        from zs2kit import io
        from zs2kit.beside import check_beside
        from zs2kit.filters import declared

        how = {"start": start, "end": end, "rate": fps, "deinterlace": deinterlace, "reader": reader}
        jobs = jobs_of(clips, out, shared, how, handles=handles, table=table)
        several = len(jobs.jobs) > 1
        if several and preview and not os.path.isdir(preview):
            raise UsageError(f"{preview} is not a folder", "for several clips, name a folder that exists")
        sheets = [preview and (preview / f"{job.out.stem}.png" if several else preview) for job in jobs.jobs]

        def look(job: Job[Shared], sheet: Path | None) -> tuple[Clip, tuple[str, ...]]:
            """Check what can be checked before a model is loaded; return the clip and the obstacles."""
            source = io.read(job.clip, **job.how)
            declared(source, filters)  # which checks them before anything is loaded
            output = io.Output(job.out, **shared.output)
            if sheet:
                check_beside(sheet, ".png", "sheet", [job.clip, job.out], output.overwrite)
            try:
                job.shared.check_beside([job.clip, job.out])
            except ClipError as error:
                return source, (str(error),)
            return source, ()

        with jobs.place():
            tried = [
                (job, sheet, jobs.attempt(job, partial(look, job, sheet)))
                for job, sheet in zip(jobs.jobs, sheets, strict=True)
            ]
            if all(found is None for *_, found in tried):
                jobs.end()
            display.stage("loading the model")
            model = shared.load(chosen)
            from zs2kit.editing import edit
            from zs2kit.filters import through
            from zs2kit.plan import lines, plan, total
            from zs2kit.sheet import Sheet

            if not all(job.prompts for job in jobs.jobs):
                shared.say_prompt(prompt, model)
            shared.save()

            def make(job: Job[Shared], path: Path | None, found: tuple[Clip, tuple[str, ...]]) -> Plan:
                source, obstacles = found
                edited = edit(source, job.prompts or prompt, plugins=chosen, model=model, **shared.settings)
                display.stage("planning")
                sheet = Sheet(edited)
                planned = plan(
                    through(edited, filters, device=shared.device, dtype=shared.dtype),
                    io.Output(job.out, **shared.output),
                    progress=display.update,
                    preview=sheet.add if path else None,
                )
                if path:
                    sheet.write(path)
                return replace(planned, obstacles=tuple(map(worded_here, (*planned.obstacles, *obstacles))))

            for job, sheet, found in tried:
                planned = found and jobs.attempt(job, partial(make, job, sheet, found))
                if planned:
                    plans.append((job, planned))
    warnings = [worded_here(str(each)) for each in said]
    if as_json:
        about = [{**asdict(each), "warnings": warnings} for _, each in plans]
        click.echo(json.dumps(about if several else about[0], indent=2, default=str))
    else:
        rows = [row for job, each in plans for row in ([f"{job.name}:"] if several else []) + lines(each)]
        rows += [total([each for _, each in plans])] if several else []
        click.echo("\n".join([*rows, *(f"{'warning':12}{each}" for each in warnings)]))
    for job, each in plans:
        if each.obstacles:
            jobs.attempt(job, partial(_refuse, each))
    jobs.end()


def _refuse(plan: Plan) -> None:
    raise ClipError(f"the edit can't start: {'; '.join(plan.obstacles)}")
