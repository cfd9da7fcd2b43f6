"""What an edit will do, take and leave, found before any of its work is done."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

from zs2kit.carry import Carry
from zs2kit.clip import Chunk, Frame
from zs2kit.editing import MOST, Edit, Place
from zs2kit.errors import ClipError
from zs2kit.io.output import Output
from zs2kit.journal import ANEW, SEGMENT
from zs2kit.memory import free, peak_of
from zs2kit.progress import Progress, Report
from zs2kit.settings import changed, takes_fields
from zs2kit.shots import shots


@dataclass(frozen=True)
class Plan:
    """What an edit will do; sizes of pictures are (width, height), as video people write them."""

    frames: int
    rate: float  # frames a second
    duration: float  # seconds
    shots: tuple[float, ...]  # when each begins, in seconds on the clip's own clock, as cuts are given
    source_size: tuple[int, int]
    scaled_size: tuple[int, int]  # what the model sees of it
    model_size: tuple[int, int]  # that, padded as the model needs it
    chunk_size: int
    device: str
    model_bytes: int  # its weights, and those of side networks
    chunk_bytes: int | None  # at most, beside the model; None where that can't be measured
    carry_bytes: int
    carry_on: str  # the device, or cpu for host memory
    free_bytes: int  # on the device
    seconds: float  # for the frames that are still to be drawn, once the model is loaded
    result: Path
    exists: bool
    saved: int  # frames of an interrupted edit, which are not drawn again if it is resumed
    streams: tuple[str, ...]  # those that are copied from the source
    result_bytes: int  # roughly
    disk_bytes: int  # at most while it works, roughly
    free_disk_bytes: int
    obstacles: tuple[str, ...]  # why it can't begin so


@takes_fields(Output)
def plan(
    edited: Edit,
    output: Output | str | Path,
    *,
    progress: Report | None = None,
    preview: Callable[[Frame, Frame], object] | None = None,
    **options: Any,
) -> Plan:
    """Return what it would mean to `write` the clip ``edited`` to ``output``, with the same options.

    Reads the whole source, a few frames at a time, and takes one denoising step of a chunk of them. Nothing
    is written. What `write` would tell in notices is told here. ``progress`` is called with the number of
    frames that are read.

    preview: called for each shot with its first frame, as it is and as the edit draws it.

    Raises what reading and sampling raise. That the edit can't begin, since the output exists or its disk is
    too small, is among the plan's ``obstacles``.
    """
    output = changed(output if isinstance(output, Output) else Output(Path(output)), options)
    out, resume = output.path, output.resume
    obstacles = []
    saved, difference = 0, ""
    try:
        saved, difference = output.left(edited)
        # Not as asked: to resume an edit, or not to, is to change files.
        replace(output, resume=False).check(edited)
        output.tell_losses(edited)
    except ClipError as error:
        obstacles.append(str(error))
    if saved and resume and difference:
        obstacles.append(f"{out} was begun with {difference}; repeat that, or {ANEW}")
    if saved and resume is None:
        obstacles.append(
            f"an edit to {out} was interrupted, and {saved} frames of it are saved; "
            + (f"it was begun with {difference}; " if difference else "go on with it (`resume=True`), or ")
            + ANEW
        )
    if resume is False or difference:
        saved = 0

    read = _read(edited, progress, preview)
    scan, device = edited.scan, edited.scan.model.device
    measured: list[tuple[Chunk, tuple[int, float]]] = []

    def measure(chunk: Chunk) -> tuple[int, float]:
        _, carry = scan.rehearse(chunk)
        return carry, scan.seconds(chunk)  # now, as the first time takes longer

    chunk_bytes = peak_of(
        lambda: measured.append(edited.attempt(read.chunk, Place(read.place, Carry()), measure)), device
    )
    chunk, (carry_bytes, seconds) = measured[0]
    beforehand = len(read.shots) if scan.wants_first else 0  # frames that are drawn twice

    pixels = edited.width * edited.height
    usual = output.store.quality
    halvings = 0.0 if usual is None or output.quality is None else (output.quality - usual) / 6
    result_bytes = round(read.frames * pixels * output.store.bits / 8 / 2**halvings)
    # Segments and what they are joined to; pictures and carries, each until the next ones are on the disk
    disk_bytes = 2 * (result_bytes + min(read.frames, SEGMENT) * pixels * 3 + carry_bytes)
    folder = out.parent
    free_disk = shutil.disk_usage(folder).free if folder.is_dir() else 0
    if folder.is_dir() and disk_bytes > free_disk:
        obstacles.append(
            f"the disk of {out} needs about {disk_bytes / 1e6:,.0f} MB and has {free_disk / 1e6:,.0f} MB free"
        )
    return Plan(
        frames=read.frames,
        rate=float(edited.rate),
        duration=float(read.duration),
        shots=tuple(float(each) for each in read.shots),
        source_size=(edited.width, edited.height),
        scaled_size=edited.fit.scaled[::-1],
        model_size=edited.fit.padded[::-1],
        chunk_size=edited.chunk_size or chunk.length,
        device=str(device),
        model_bytes=_weights(edited),
        chunk_bytes=chunk_bytes,
        carry_bytes=carry_bytes,
        carry_on="cpu" if scan.carry_on_host else str(device),
        free_bytes=free(device),
        seconds=read.seconds + seconds * (read.frames + beforehand - saved) / chunk.length,
        result=out,
        exists=os.path.lexists(out) or bool(output.pattern and output.pattern.numbers()),
        saved=saved,
        streams=tuple(output.copied(edited)),
        result_bytes=result_bytes,
        disk_bytes=disk_bytes,
        free_disk_bytes=free_disk,
        obstacles=tuple(obstacles),
    )


class _Source(NamedTuple):
    """What is found by reading it all."""

    frames: int
    shots: list[Fraction]  # seconds
    duration: Fraction
    chunk: list[Frame]  # as many frames as the largest chunk may have
    place: int  # of the first of these
    seconds: float  # that reading took


def _read(edited: Edit, progress: Report | None, preview: Callable[[Frame, Frame], object] | None) -> _Source:
    clip = edited.clip
    tick = clip.time_base
    begins: list[Fraction] = []
    chunk: list[Frame] = []
    group: list[Frame] = []
    index = place = 0
    previewing = 0.0
    began = perf_counter()
    for index, (first, frame) in enumerate(shots(clip, edited.settings.cuts)):
        if index == first:
            begins.append(frame.pts * tick)
            group = []
            if preview is not None:
                before = perf_counter()
                preview(frame, edited.beginning(index, frame))
                previewing += perf_counter() - before
        if len(group) < (edited.chunk_size or MOST):
            group.append(frame)
            if len(group) > len(chunk):
                chunk, place = group, first
        if progress is not None:
            progress(Progress(index + 1, "reading", clip.frame_count))
    duration = frame.pts * tick - begins[0] + (frame.duration * tick or 1 / clip.rate)
    return _Source(index + 1, begins, duration, chunk, place, perf_counter() - began - previewing)


def _weights(edited: Edit) -> int:
    """The bytes of the model's weights, and of those of the plugins' side networks."""
    tensors = {
        tensor.data_ptr(): tensor.nbytes
        for part in (*edited.scan.model.modules, *edited.scan.denoiser.networks.values())
        for tensor in part.state_dict().values()
    }
    return sum(tensors.values())  # the denoiser is among both


def lines(plan: Plan) -> list[str]:
    """Return the plan as lines of text, but for its obstacles."""
    times = [f"{each:.2f}" for each in plan.shots[:12]] + ["..."] * (len(plan.shots) > 12)
    scaled, padded, source = (
        f"{width}x{height}" for width, height in (plan.scaled_size, plan.model_size, plan.source_size)
    )
    sizes = f"{scaled}, padded to {padded}" if scaled != padded else scaled
    chunk = "unknown" if plan.chunk_bytes is None else f"{_megabytes(plan.chunk_bytes)} at its peak"
    there = "; a file of that name is there" if plan.exists else ""
    resumed = f"; {plan.saved} frames are saved of an interrupted edit" if plan.saved else ""
    rows = {
        "frames": f"{plan.frames}, {plan.rate:g} a second, {plan.duration:.2f} s",
        "shots": f"{len(plan.shots)}, at {', '.join(times)} s",
        "size": f"{source}, for the model {sizes}, and back",
        "chunk": f"{plan.chunk_size} frames at once on {plan.device}",
        "memory": f"model {_megabytes(plan.model_bytes)}, chunk {chunk}, "
        f"carry {_megabytes(plan.carry_bytes)} on {plan.carry_on}; {_megabytes(plan.free_bytes)} are free",
        "time": f"about {_span(plan.seconds)} once the model is loaded",
        "result": f"{plan.result}{there}{resumed}",
        "disk": f"about {_megabytes(plan.disk_bytes)} meanwhile, {_megabytes(plan.result_bytes)} in the end; "
        f"{_megabytes(plan.free_disk_bytes)} are free",
        "copied": ", ".join(plan.streams) or "no sound and no subtitles",
    }
    return [f"{name:12}{says}" for name, says in rows.items()]


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB" if count >= 1e7 else f"{count / 1e6:.2g} MB"


def _span(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{round(seconds)} s" if seconds < 120 else f"{seconds / 60:.1f} min"
