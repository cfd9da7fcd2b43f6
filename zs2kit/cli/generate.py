"""`zs2kit generate`."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import click

from zs2kit.cli.jobs import check_timeline, shown_by
from zs2kit.cli.options import AT, FILES, PATH, RATE, WHAT, Shared, Whole, flag, shared
from zs2kit.cli.terminal import Command
from zs2kit.errors import UsageError
from zs2kit.settings import OF_A_SOURCE


@click.command(cls=Command)
@click.argument("prompt", required=False)
@flag(
    "--frames",
    metavar="N",
    type=Whole(1),
    default=48,
    group=WHAT,
    help="How many frames to draw.  [default: 48]",
)
@flag(
    "--fps",
    type=RATE,
    metavar="X",
    default="12",
    group=WHAT,
    help="Frames per second: 12, 23.976, 30000/1001.  [default: 12]",
)
@AT
@flag("-o", "--out", type=PATH, group=FILES, help="The result.  [default: here, named after the prompt]")
@shared(without=OF_A_SOURCE)
def generate(
    prompt: str | None,
    frames: int,
    fps: Fraction,
    prompts: Sequence[tuple[int, str]],
    out: Path | None,
    shared: Shared,
) -> None:
    """Make a video from PROMPT alone.

    If --out is a timeline, .otio or .edl, it shows the result, which is written next to it.

    When the result is complete, its name is printed; nothing else goes to standard output.
    """
    if len(dict(prompts)) < len(prompts):
        raise UsageError("--at names a frame twice", "give each frame one prompt")
    if late := [frame for frame, _ in prompts if frame >= frames]:
        raise UsageError(
            f"--at {late[0]} comes after the end: the {frames} frames are numbered from 0 to {frames - 1}",
            "use an earlier frame, or more --frames",
        )
    with shared.manners(), shared.display() as display:
        display.stage("loading the model")
        chosen, filters = shared.build()
        from zs2kit import io
        from zs2kit.clip import Clip
        from zs2kit.filters import declared
        from zs2kit.timelines import assembled, is_timeline

        name = "-".join(re.findall(r"\w+", prompt or "")[:12])[:60] or "generated"
        out = out or Path(name + io.CODECS[shared.output.get("codec", "h264")].suffixes[0])
        timeline = out if is_timeline(out) else None
        if timeline:
            check_timeline(timeline, shared, ())
            out = shown_by(timeline, shared)
        output = shared.opened_output(out, display)
        size = shared.settings.get("size")  # else the model's own, once it is loaded
        height, width = size or (2, 2)
        planned = Clip((), width, height, fps, 1 / fps, frames)
        output.check(declared(planned, filters) if size else planned)
        shared.check_beside([out])
        model = shared.load(chosen)
        from zs2kit.editing import generate
        from zs2kit.filters import through

        shared.say_prompt(prompt, model)
        by_frame = {0: model.default_prompt if prompt is None else prompt, **dict(prompts)}
        generated = generate(
            by_frame,
            frames=frames,
            rate=fps,
            plugins=chosen or (),
            model=model,
            progress=display.update,
            **shared.settings,
        )
        shared.save()
        display.stage("generating")
        made = through(generated, filters, device=shared.device, dtype=shared.dtype)
        shared.write(output, made)
        display.stop()
        click.echo(os.fsencode(out))
        if timeline:
            assembled({out: by_frame}).write(timeline)
            click.echo(os.fsencode(timeline))
        shared.write_beside(out, generated, made, frames=frames, rate=str(fps))
