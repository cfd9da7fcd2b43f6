"""`zs2kit edit`."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zs2kit.cli.jobs import HANDLES, PROMPTS, Job, begun, hand_over, jobs_of, look
from zs2kit.cli.options import AT, FILES, MACHINE, PATH, RATE, TIME, WHAT, Shared, Whole, flag, shared
from zs2kit.cli.terminal import Command
from zs2kit.errors import UsageError

if TYPE_CHECKING:
    from zs2kit.clip import Clip
    from zs2kit.editing import Edit
    from zs2kit.farm import Farm, FarmEdit
    from zs2kit.io import Output
    from zs2kit.model import Model


def reading_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options for reading its clip or clips, and for the result's name."""
    for option in (
        flag(
            "--fps",
            type=RATE,
            metavar="X",
            group=FILES,
            help="Frames per second, if CLIP is pictures, shot.%04d.png: 24, 23.976, 30000/1001.  "
            "[default: 25]",
        ),
        flag(
            "--deinterlace",
            is_flag=True,
            group=FILES,
            help="If CLIP is interlaced, turn its fields into whole pictures.",
        ),
        flag(
            "--reader",
            type=click.Choice(["pyav", "decord"]),
            default="pyav",
            group=FILES,
            help="What decodes CLIP: pyav, which is exact, or decord, which is a trifle darker.  "
            "[default: pyav]",
        ),
        flag(
            "--end", type=TIME, metavar="TIME", group=FILES, help="Where in CLIP to stop.  [default: its end]"
        ),
        flag(
            "--start",
            type=TIME,
            metavar="TIME",
            group=FILES,
            help="Where in CLIP to start: seconds or [HH:]MM:SS.  [default: its start]",
        ),
        flag(
            "-o",
            "--out",
            type=PATH,
            group=FILES,
            help="The result; for several clips, a folder.  [default: next to CLIP, named after plugins and "
            "filters: CLIP-pose.mp4]",
        ),
    ):
        command = option(command)
    return command


def source_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of `reading_options`, and --prompt."""
    prompt = flag(
        "--prompt",
        group=WHAT,
        help="What the result should show.  [default: the model's own; only the bundled models have one]",
    )
    given: Callable[..., Any] = prompt(reading_options(command))
    return given


def _required(context: click.Context, parameter: click.Parameter, value: Sequence[Path]) -> Sequence[Path]:
    if not value and context.params.get("camera") is None:
        raise click.MissingParameter(ctx=context, param=parameter)
    return value


@click.command(cls=Command)
@click.argument("clips", metavar="CLIP...", type=PATH, nargs=-1, callback=_required)
@source_options
@AT
@PROMPTS
@HANDLES
@flag(
    "--camera",
    metavar="N",
    type=Whole(0),
    group=FILES,
    is_eager=True,
    help="Read a camera instead of CLIP, until --end; 0 is the first camera.",
)
@flag(
    "--farm",
    metavar="ADDRESS",
    group=MACHINE,
    help="Draw the shots on a farm: local, for several processes here, or the HOST:PORT of a Ray cluster.",
)
@shared()
def edit(
    clips: Sequence[Path],
    camera: int | None,
    prompt: str | None,
    prompts: Sequence[tuple[int, str]],
    table: Path | None,
    handles: int | None,
    out: Path | None,
    start: Fraction | None,
    end: Fraction | None,
    fps: Fraction | None,
    deinterlace: bool,
    reader: str,
    farm: str | None,
    shared: Shared,
) -> None:
    """Make a new video from CLIP, with its motion and its sound.

    CLIP is a video, or a sequence of pictures such as shot.%04d.png or shot.####.exr. If you name several
    clips, each gets a result of its own. If one of them fails, the others are still edited, and the exit code
    is 1.

    CLIP may also be a timeline, .otio or .edl: then each of its cuts is edited, and a new timeline shows the
    results. If --out is a timeline, it shows the results, too.

    When a result is complete, its name is printed; nothing else goes to standard output. CLIP may be -, for
    standard input. So may --out: then the result itself goes to standard output, as Matroska.
    """
    if len(dict(prompts)) < len(prompts):
        raise UsageError("--at names a frame twice", "give each frame one prompt")
    if camera is not None:
        if clips:
            raise UsageError("--camera comes instead of CLIP", "leave one of them out")
        clips = [Path(f"camera {camera}")]
    named = out
    with begun(shared, clips, out) as (display, clips, out):
        chosen, filters = shared.build()
        from zs2kit import io
        from zs2kit.io.reading import how_read

        def reader_of(job: Job[Shared]) -> Callable[[], Clip]:
            if camera is not None:
                return functools.partial(io.capture, camera, end=end)
            return functools.partial(io.read, job.clip, **job.how)

        def looked_at(job: Job[Shared]) -> tuple[Clip, Output]:
            return look(job, filters, display, reader_of(job), live=camera is not None)

        def make(job: Job[Shared], output: Output, edited: Edit | FarmEdit) -> None:
            made = through(edited, filters, device=shared.device, dtype=shared.dtype)
            display.stage(f"editing{jobs.numbered(job)}")
            shared.write(output, made)
            display.stop()
            hand_over(job.out, named)  # before the rest, which may still fail
            job.shared.write_beside(job.out, edited, made, reader_of(job), **how_read(**job.how))
            display.start()

        how = {"start": start, "end": end, "rate": fps, "deinterlace": deinterlace, "reader": reader}
        jobs = jobs_of(clips, out, shared, how, handles=handles, table=table)
        with jobs.place(), ExitStack() as stack:
            resumes = len(jobs.jobs) > 1 and shared.output.get("resume")
            todo = jobs.unfinished() if resumes else jobs.jobs
            tried = [(job, jobs.attempt(job, functools.partial(looked_at, job))) for job in todo]
            ready = [(job, *looked) for job, looked in tried if looked]
            by_frame = {0: prompt or "", **dict(prompts)}
            if ready:
                display.stage("loading the model" if farm is None else "starting the farm")
                from zs2kit.editing import edit
                from zs2kit.filters import through

                drawing: Model | Farm
                draw: Callable[..., Edit | FarmEdit]
                if farm is None:
                    drawing = shared.load(chosen)
                    draw = functools.partial(edit, model=drawing)
                else:
                    drawing = stack.enter_context(shared.open_farm(farm, chosen))
                    draw = drawing.edit
                if not all(job.prompts for job, *_ in ready):
                    shared.say_prompt(prompt, drawing)
                by_frame[0] = drawing.default_prompt if prompt is None else prompt
                shared.save()

            def begin(job: Job[Shared], source: Clip) -> Edit | FarmEdit:
                how = {"plugins": chosen, "progress": display.update, **shared.settings}
                return draw(source, job.prompts or by_frame, **how)

            edits: Iterable[tuple[Job[Shared], Output, Edit | FarmEdit | None]] = (
                (job, output, jobs.attempt(job, functools.partial(begin, job, source)))
                for job, source, output in ready
            )
            if farm is not None:  # whose workers draw the next clips while one is written
                from zs2kit.farm import FarmEdit

                edits = list(edits)
                for _, output, edited in edits:
                    if isinstance(edited, FarmEdit) and not output.resume:
                        edited.begin()
            for job, output, edited in edits:
                if edited is not None:
                    jobs.attempt(job, functools.partial(make, job, output, edited))
            if written := jobs.write_timeline(by_frame):
                display.stop()
                click.echo(os.fsencode(written))
    jobs.end()
