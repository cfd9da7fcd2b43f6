"""`zs2kit filter`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zs2kit.cli.edit import reading_options
from zs2kit.cli.jobs import Job, begun, hand_over, jobs_of, look
from zs2kit.cli.options import HOW, PATH, SETTINGS, Common, derived, shared
from zs2kit.cli.terminal import Command, given
from zs2kit.errors import UsageError

if TYPE_CHECKING:
    from zs2kit.clip import Clip
    from zs2kit.io import Output


@click.command("filter", cls=Command)
@click.argument("clips", metavar="CLIP...", type=PATH, nargs=-1, required=True)
@reading_options
@derived(SETTINGS["cuts"], HOW)
@shared(Common)
def filter_(
    clips: Sequence[Path],
    out: Path | None,
    start: Fraction | None,
    end: Fraction | None,
    fps: Fraction | None,
    deinterlace: bool,
    reader: str,
    cuts: Any,
    shared: Common,
) -> None:
    """Take CLIP through filters, without editing it.

    Choose each filter with --then NAME. If there are several clips, each gets a result of
    its own. If one of them fails, the others are still filtered, and the exit code is 1.

    Once a result is complete, its name is printed; nothing else goes to standard output. CLIP may be -,
    standard input, and --out too: then the result goes to standard output, as Matroska.
    """
    if not shared.filters:
        raise UsageError("no filter is named", "name one with --then; 'zs2kit filters' lists them")
    named = out
    with begun(shared, clips, out) as (display, clips, out):
        filters = shared.build_filters()
        from zs2kit import io
        from zs2kit.filters import Filtered, through
        from zs2kit.io.reading import how_read
        from zs2kit.report import filtered_with
        from zs2kit.timelines import is_timeline

        if timeline := next((each for each in (*clips, out) if each and is_timeline(each)), None):
            raise UsageError(f"{timeline} is a timeline, not a clip", "name clips")

        def reader_of(job: Job[Common]) -> Callable[[], Clip]:
            return functools.partial(io.read, job.clip, **job.how)

        def make(job: Job[Common], source: Clip, output: Output) -> None:
            display.stage("loading the filters")
            machine = {"device": shared.device, "dtype": shared.dtype}
            made = through(source, filters, **given({"cuts": cuts, **machine}))
            assert isinstance(made, Filtered)
            shared.save()
            display.stage(f"filtering{jobs.numbered(job)}")
            shared.write(output, made, display.update)
            display.stop()
            hand_over(job.out, named)
            job.shared.write_sheet(job.out, reader_of(job))
            if job.shared.report:
                about = filtered_with(made, how_read(**job.how))
                job.shared.write_report(job.out, made, reader_of(job), about)
            display.start()

        how = {"start": start, "end": end, "rate": fps, "deinterlace": deinterlace, "reader": reader}
        jobs = jobs_of(clips, out, shared, how)
        resumes = len(jobs.jobs) > 1 and shared.output.get("resume")
        todo = jobs.unfinished() if resumes else jobs.jobs
        looked = [
            (job, jobs.attempt(job, functools.partial(look, job, filters, display, reader_of(job))))
            for job in todo
        ]
        for job, found in looked:
            if found is not None:
                jobs.attempt(job, functools.partial(make, job, *found))
    jobs.end()
