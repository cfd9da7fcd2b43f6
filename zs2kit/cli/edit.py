"""`zs2kit edit`."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import click

from zs2kit.cli.options import FILES, PATH, RATE, TIME, WHAT, Shared, flag, shared
from zs2kit.cli.terminal import Command
from zs2kit.errors import UsageError


def source_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the argument CLIP, and the options for reading it and writing the result."""
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
            help="The result.  [default: beside CLIP, named after the plugins: CLIP-pose.mp4]",
        ),
        flag(
            "--prompt",
            group=WHAT,
            help="What the result shows.  [default: the model's own; only the bundled models have one]",
        ),
        click.argument("clip", type=PATH),
    ):
        command = option(command)
    return command


@click.command(cls=Command)
@source_options
@shared()
def edit(
    clip: Path,
    prompt: str | None,
    out: Path | None,
    start: Fraction | None,
    end: Fraction | None,
    fps: Fraction | None,
    shared: Shared,
) -> None:
    """Make a new video from CLIP, with its motion and its sound.

    CLIP is a video, or a sequence of PNG pictures, shot.%04d.png.

    Once the result is complete, its name is printed; nothing else goes to standard output.
    """
    if start is not None and end is not None and start >= end:
        raise UsageError("`start` must lie before `end`")
    with shared.manners(), shared.display() as display:
        display.stage("looking at the clip")
        chosen = shared.build()
        from zs2kit import io

        read_source = functools.partial(io.read, clip, start=start, end=end, rate=fps)
        source = read_source()
        out = out or io.name_beside(clip, shared.word, shared.output.get("codec"))
        output = shared.opened_output(out, display)
        output.check(source)
        shared.check_beside([clip, out])
        display.stage("loading the model")
        model = shared.load(chosen)
        from zs2kit.editing import edit

        shared.say_prompt(prompt, model)
        edited = edit(source, prompt, plugins=chosen, model=model, progress=display.update, **shared.settings)
        display.stage("editing")
        shared.write(output, edited)
    # Before the rest, which may still fail. In bytes, since a name may not be text, or not fit the encoding.
    click.echo(os.fsencode(out))
    shared.write_beside(out, edited, read_source)
