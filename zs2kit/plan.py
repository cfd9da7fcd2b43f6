"""What an edit will do, take and leave, found before any of its work is done."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import torch

from zs2kit import io
from zs2kit.clip import Chunk, Clip, Frame
from zs2kit.errors import ClipError, is_out_of_memory
from zs2kit.io.sequence import Pattern
from zs2kit.memory import free, peak_of
from zs2kit.scan import MOST, Sampled, chunk_of
from zs2kit.shots import shots

# What a pixel takes, roughly, in bits: at a CRF of 18, which takes twice as much for every 6 less
_BITS = {"h264": 0.25, "ffv1": 12.0, "prores": 4.0, "png": 14.0}


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
    seconds: float  # for the frames that are still to be made, once the model is loaded
    result: Path
    exists: bool
    kept: int  # frames of an interrupted edit, which are not made again if it is resumed
    streams: tuple[str, ...]  # those that are copied from the source
    result_bytes: int  # roughly
    disk_bytes: int  # at most while it works, roughly
    free_disk_bytes: int
    obstacles: tuple[str, ...]  # why it can't begin so


def plan(
    edited: Clip,
    out: str | Path,
    *,
    codec: str | None = None,
    quality: int | None = None,
    start_number: int | None = None,
    overwrite: bool = False,
    resume: bool | None = None,
    progress: Callable[[int], object] = lambda done: None,
    preview: Callable[[Frame, Frame], object] | None = None,
) -> Plan:
    """Return what it would mean to `write` the clip ``edited``, as `edit` returned it, to ``out``.

    Reads the whole source, a few frames at a time, and takes one denoising step of a chunk of them. Nothing
    is written, and ``edited`` is used up. What `write` would warn of is warned of here. ``codec`` to
    ``resume`` are those of `write`; ``progress`` is called with the number of frames that are read.

    preview: called for each shot with its first frame, as it is and as the edit makes it.

    Raises UsageError for settings that exclude one another, and what reading and sampling raise. That the
    edit can't begin, since ``out`` exists or its disk is too small, is among the plan's ``obstacles``.
    """
    made, out, pattern = edited.frames, Path(out), Pattern.of(out)
    assert isinstance(made, Sampled)
    codec = codec or io.default_codec(out)
    obstacles = []
    kept, difference = 0, ""
    try:
        kept, difference = io.left(out, edited, codec=codec, quality=quality)
        # Not as asked: to resume an edit, or not to, is to change files.
        io.check_output(
            out, edited, overwrite, codec=codec, quality=quality, start_number=start_number, resume=False
        )
        io.say_what_is_lost(out, edited, codec)
    except ClipError as error:
        obstacles.append(str(error))
    if kept and resume and difference:
        obstacles.append(f"{out} was begun with {difference}; repeat that, or begin anew (--no-resume)")
    if kept and resume is None:
        obstacles.append(
            f"an edit to {out} was interrupted, and {kept} frames of it are kept; "
            + (f"it was begun with {difference}; " if difference else "go on with it (--resume), or ")
            + "begin anew (--no-resume)"
        )
    if resume is False or difference:
        kept = 0

    read = _read(made, progress, preview)
    scan, device = made.scan, made.scan.model.device
    measured: list[tuple[Chunk, int, float]] = []
    chunk_bytes = peak_of(lambda: measured.append(_measured(made, read)), device)
    chunk, carry_bytes, seconds = measured[0]
    beforehand = len(read.shots) if scan.wants_first else 0  # frames that are drawn twice

    pixels = edited.width * edited.height
    halvings = ((18 if quality is None else quality) - 18) / 6 if codec == "h264" else 0
    result_bytes = round(read.frames * pixels * _BITS[codec] / 8 / 2**halvings)
    # Segments and what they are joined to; pictures and carries, each until the next ones are on the disk
    disk_bytes = 2 * (result_bytes + min(read.frames, io.SEGMENT) * pixels * 3 + carry_bytes)
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
        scaled_size=(made.fit.scaled[1], made.fit.scaled[0]),
        model_size=(made.fit.padded[1], made.fit.padded[0]),
        chunk_size=made.chunk_size or chunk.length,
        device=str(device),
        model_bytes=_weights(made),
        chunk_bytes=chunk_bytes,
        carry_bytes=carry_bytes,
        carry_on="cpu" if scan.carry_on_host else str(device),
        free_bytes=free(device),
        seconds=read.seconds + seconds * (read.frames + beforehand - kept) / chunk.length,
        result=out,
        exists=os.path.lexists(out) or bool(pattern and pattern.numbers()),
        kept=kept,
        streams=tuple(io.copied(out, edited)),
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


def _read(
    made: Sampled, progress: Callable[[int], object], preview: Callable[[Frame, Frame], object] | None
) -> _Source:
    clip = made.clip
    tick = clip.time_base
    begins: list[Fraction] = []
    chunk: list[Frame] = []
    group: list[Frame] = []
    index = place = 0
    previewing = 0.0
    began = perf_counter()
    for index, (first, frame) in enumerate(shots(clip, made.cuts)):
        if index == first:
            begins.append(frame.pts * tick)
            group = []
            if preview is not None:
                before = perf_counter()
                preview(frame, made.beginning(index, frame))
                previewing += perf_counter() - before
        if len(group) < (made.chunk_size or MOST):
            group.append(frame)
            if len(group) > len(chunk):
                chunk, place = group, first
        progress(index + 1)
    duration = frame.pts * tick - begins[0] + (frame.duration * tick or 1 / clip.rate)
    return _Source(index + 1, begins, duration, chunk, place, perf_counter() - began - previewing)


def _measured(made: Sampled, read: _Source) -> tuple[Chunk, int, float]:
    """Return a chunk, the bytes of the carry that it leaves, and the seconds that it takes."""
    scan = made.scan
    while True:
        count = made.chunk_size or MOST
        try:
            if made.chunk_size is None:
                made.chunk_size = count = made.fitting(read.chunk)
            chunk = chunk_of(made.clip, read.chunk[:count], read.place, made.fit)
            _, carry = scan.rehearse(chunk)
            return chunk, carry, scan.seconds(chunk)  # now, as the first time takes longer
        except Exception as error:
            if not is_out_of_memory(error) or not made.make_room(min(count, len(read.chunk))):
                raise


def _weights(made: Sampled) -> int:
    """The bytes of the model's weights, and of those of the plugins' side networks."""
    parts = [*made.scan.model.pipeline.components.values(), *made.scan.denoiser.networks.values()]
    tensors = {
        tensor.data_ptr(): tensor.nbytes
        for part in parts
        if isinstance(part, torch.nn.Module)
        for tensor in part.state_dict().values()
    }
    return sum(tensors.values())  # the U-Net is among both


def lines(plan: Plan) -> list[str]:
    """Return the plan as lines of text, but for its obstacles."""
    times = [f"{each:.2f}" for each in plan.shots[:12]] + ["..."] * (len(plan.shots) > 12)
    scaled, padded, source = (
        f"{width}x{height}" for width, height in (plan.scaled_size, plan.model_size, plan.source_size)
    )
    sizes = f"{scaled}, padded to {padded}" if scaled != padded else scaled
    chunk = "unknown" if plan.chunk_bytes is None else f"{_megabytes(plan.chunk_bytes)} at its peak"
    there = "; a file of that name is there" if plan.exists else ""
    resumed = f"; {plan.kept} frames are kept of an interrupted edit" if plan.kept else ""
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
