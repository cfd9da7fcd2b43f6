"""Plans: what an edit will do, and what time, memory and disk it takes, before any of its work is done."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import torch

from zs2kit.carry import Carry
from zs2kit.clip import Chunk, Frame
from zs2kit.editing import MOST, Edit, Place
from zs2kit.errors import ClipError, DiskError, UsageError
from zs2kit.filters import Filtered, filters_of
from zs2kit.filters.filtered import filter_seconds, unfiltered
from zs2kit.io.output import Output
from zs2kit.journal import ANEW, SEGMENT, Left
from zs2kit.memory import free, peak_of
from zs2kit.plugins import name_of
from zs2kit.progress import Progress, Report
from zs2kit.scan import Drawn, chunk_of, finished
from zs2kit.settings import changed, takes_fields


@dataclass(frozen=True)
class Plan:
    """What an edit will do; sizes of pictures are (width, height), as video people write them."""

    frames: int
    drawn_frames: int  # the others are filled in, see `every`
    rate: float  # frames per second
    filtered_frames: int  # after filters; the same if there are none, as are rate and size
    filtered_rate: float
    filtered_size: tuple[int, int]
    filters: tuple[str, ...]
    duration: float  # seconds
    shots: tuple[float, ...]  # when each starts, in seconds on the clip's own clock, as cuts are given
    source_size: tuple[int, int]
    scaled_size: tuple[int, int]  # the source as the model gets it
    model_size: tuple[int, int]  # the same, padded as the model needs it
    chunk_size: int
    device: str
    model_bytes: int  # of the weights, side networks included
    chunk_bytes: int | None  # of a chunk at its peak, without the model; None if that can't be measured
    carry_bytes: int
    whole_carry_bytes: int  # of all steps; more than `carry_bytes` in rows
    in_rows: bool  # whether each step is taken for a whole shot before the next one
    carry_on: str  # the device, or cpu for host memory
    free_bytes: int  # on the device
    seconds: float  # for the frames that are still to be drawn, once the model is loaded
    filter_seconds: float  # of these, for the filters
    result: Path
    exists: bool  # there is already a file at ``result``
    saved: int  # frames of an interrupted edit, which are not drawn again if it is resumed
    saved_steps: int  # how many denoising steps the next ones have taken there
    streams: tuple[str, ...]  # of the source, which are copied
    result_bytes: int  # estimated
    disk_bytes: int  # the most that it takes while it works, estimated
    free_disk_bytes: int
    obstacles: tuple[str, ...]  # why the edit can't start


@takes_fields(Output)
def plan(
    made: Edit | Filtered,
    output: Output | str | Path,
    *,
    progress: Report | None = None,
    preview: Callable[[Frame, Frame], object] | None = None,
    **options: Any,
) -> Plan:
    """Return what `write` would do with an edit, perhaps filtered, and ``output``, with the same options.

    Reads the whole source, a few frames at a time, and takes one denoising step with a chunk of it. Nothing
    is written. Notices are those that `write` would send.

    progress: called with the number of frames that are read. preview: called for each shot with its first
    frame, as it is and as the edit draws it.

    Raises what reading and sampling raise. Reasons why the edit can't start, such as that the output exists
    or its disk is too small, are the plan's ``obstacles``.
    """
    output = changed(output if isinstance(output, Output) else Output(Path(output)), options)
    out, resume = output.path, output.resume
    edited = _edit_of(made)
    filters = filters_of(made)
    times = math.prod(each.per_frame for each in filters)
    obstacles = []
    left, difference, disk_fits = None, "", True
    try:
        left, difference = output.left(made)
        # Without `resume`: to decide that would change files.
        replace(output, resume=False).check(made)
        output.tell_losses(made)
    except ClipError as error:
        obstacles.append(str(error))
        disk_fits = not isinstance(error, DiskError)
    if left and resume and difference:
        obstacles.append(f"{out} was started with {difference}; use these settings again, or {ANEW}")
    if left and resume is None:
        obstacles.append(
            f"an edit to {out} was interrupted, and {left.words()} are saved; "
            + (f"it was started with {difference}; " if difference else "resume it (`resume=True`), or ")
            + ANEW
        )
    saved = Left(0, 0) if left is None or resume is False or difference else left

    read = _read(edited, progress, preview)
    scan, device = edited.scan, edited.scan.model.device
    measured: list[tuple[Chunk, tuple[int, int, float]]] = []

    def measure(chunk: Chunk) -> tuple[int, int, float]:
        _, carry, steps = scan.rehearse(chunk)
        edited.choose_order(carry * steps)
        # After the rehearsal, since the first time takes longer
        return carry if scan.in_rows else carry * steps, carry * steps, scan.seconds(chunk)

    unfitted = any(
        each.model_size for each in filters
    )  # bringing pictures to their size is then the filter's

    chunk_bytes = peak_of(
        lambda: measured.append(edited.attempt(read.chunk, Place(read.place, Carry()), measure)), device
    )
    chunk, (carry_bytes, whole_carry_bytes, seconds) = measured[0]
    beforehand = len(read.shots) if scan.wants_first else 0  # frames that are drawn twice

    pixels = made.width * made.height
    result_bytes = output.bytes(made, read.frames * times)
    done = saved.frames // times
    rest = read.frames - done
    steps: Any = edited.settings.num_inference_steps
    # What is left of a shot may have taken some steps
    under_way = next((end for end in read.ends if end > done), done) - done
    left_to_draw = read.drawn * (rest - under_way * saved.steps / steps) / read.frames
    filtering = filter_seconds(made, edited, read.chunk) * rest
    fitting = 0.0 if unfitted else _fitting_seconds(edited, read.chunk[:2]) * rest
    # Segments and the file that they are joined into; pictures and carries, until the next ones are saved
    kept_bytes = carry_bytes
    if scan.in_rows:  # the latents, and what multistep schedulers remember
        latents = scan.model.latent_shape(*edited.fit.padded)
        longest = max(end - start for start, end in pairwise([0, *read.ends]))
        kept_bytes = 4 * longest * math.prod(latents) * 4
    disk_bytes = 2 * (result_bytes + min(read.frames * times, SEGMENT) * pixels * 3 + kept_bytes)
    folder = out.parent
    free_disk = shutil.disk_usage(folder).free if folder.is_dir() else 0
    if folder.is_dir() and disk_bytes > free_disk and disk_fits:  # or that has been said
        obstacles.append(
            f"{out} needs about {disk_bytes / 1e6:,.0f} MB, but its disk has only "
            f"{free_disk / 1e6:,.0f} MB free"
        )
    return Plan(
        frames=read.frames,
        drawn_frames=read.drawn,
        rate=float(edited.rate),
        filtered_frames=read.frames * times,
        filtered_rate=float(made.rate),
        filtered_size=(made.width, made.height),
        filters=tuple(map(name_of, filters)),
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
        whole_carry_bytes=whole_carry_bytes,
        in_rows=bool(scan.in_rows),
        carry_on="cpu" if scan.carry_on_host else str(device),
        free_bytes=free(device),
        seconds=read.seconds
        + seconds * (beforehand + left_to_draw) / chunk.drawn.length
        + fitting
        + filtering,
        filter_seconds=filtering,
        result=out,
        exists=os.path.lexists(out) or bool(output.pattern and output.pattern.numbers()),
        saved=saved.frames,
        saved_steps=saved.steps,
        streams=tuple(output.copied(made)),
        result_bytes=result_bytes,
        disk_bytes=disk_bytes,
        free_disk_bytes=free_disk,
        obstacles=tuple(obstacles),
    )


def _edit_of(made: Edit | Filtered) -> Edit:
    """Return the edit whose frames are filtered."""
    clip = unfiltered(made)
    if not isinstance(clip, Edit):
        raise UsageError("only an edit can be planned", "give what `zs2kit.edit` returns, perhaps filtered")
    return clip


class _Source(NamedTuple):
    """What reading the whole source has found."""

    frames: int
    drawn: int  # how many of them are drawn
    shots: list[Fraction]  # when each starts, in seconds
    ends: list[int]  # how many frames there are up to the end of each
    duration: Fraction
    chunk: list[Frame]  # as many frames as the largest chunk has
    place: int  # the position of the first of these
    seconds: float  # how long reading took


def _read(edited: Edit, progress: Report | None, preview: Callable[[Frame, Frame], object] | None) -> _Source:
    clip = edited.clip
    tick = clip.time_base
    starts: list[Fraction] = []
    chunk: list[Frame] = []
    group: list[Frame] = []
    firsts: list[int] = []
    index = place = drawn = 0
    previewing = 0.0
    started = perf_counter()
    for index, (first, frame) in enumerate(edited.marked()):
        drawn += frame.fill is None
        if index == first:
            starts.append(frame.pts * tick)
            firsts.append(index)
            group = []
            if preview is not None:
                before = perf_counter()
                preview(frame, edited.beginning(index, frame))
                previewing += perf_counter() - before
        if sum(each.fill is None for each in group) < (edited.chunk_size or MOST):
            group.append(frame)
            if len(group) > len(chunk):
                chunk, place = group, first
        if progress is not None:
            progress(Progress(index + 1, "reading", clip.frame_count))
    duration = frame.pts * tick - starts[0] + (frame.duration * tick or 1 / clip.rate)
    seconds = perf_counter() - started - previewing
    ends = [*firsts[1:], index + 1]
    return _Source(index + 1, drawn, starts, ends, duration, chunk, place, seconds)


def _fitting_seconds(edited: Edit, frames: list[Frame]) -> float:
    """Return how long it takes to bring a drawn picture to the source's size, by a try with ``frames``."""
    chunk = chunk_of(edited.clip, frames, 0, edited.fit)
    drawn = Drawn(Carry(), torch.zeros(len(frames), 3, *edited.fit.padded), None)
    scan = edited.scan
    before = Carry() if scan.settings.flow_momentum else None
    for _ in range(2):  # the first time takes longer
        began = perf_counter()
        for _ in finished(chunk, drawn, frames, edited.encoding, scan.model.enlarger, before=before):
            pass
    return (perf_counter() - began) / len(frames)


def _weights(edited: Edit) -> int:
    """Return the bytes of the weights of the model and of the plugins' side networks."""
    tensors = {
        tensor.data_ptr(): tensor.nbytes
        for part in (*edited.scan.model.modules, *edited.scan.denoiser.networks.values())
        for tensor in part.state_dict().values()
    }
    return sum(tensors.values())  # the denoiser is among both


_ROWS = "each step for a whole shot before the next, since a carry of all steps would take {}"


def lines(plan: Plan) -> list[str]:
    """Return the plan as lines of text, without its obstacles."""
    times = [f"{each:.2f}" for each in plan.shots[:12]] + ["..."] * (len(plan.shots) > 12)
    scaled, padded, source = (
        f"{width}x{height}" for width, height in (plan.scaled_size, plan.model_size, plan.source_size)
    )
    sizes = f"{scaled}, padded to {padded}" if scaled != padded else scaled
    chunk = "unknown" if plan.chunk_bytes is None else f"{_megabytes(plan.chunk_bytes)} at its peak"
    there = "; this file already exists" if plan.exists else ""
    after = "{}x{}".format(*plan.filtered_size)
    after += f", {plan.filtered_frames} frames, {plan.filtered_rate:g} per second"
    filtering = f", {_span(plan.filter_seconds)} of it for filters" if plan.filters else ""
    filled = f"; {plan.drawn_frames} of them are drawn" if plan.drawn_frames < plan.frames else ""
    saved = Left(plan.saved, plan.saved_steps)
    resumed = f"; {saved.words()} are saved of an interrupted edit" if any(saved) else ""
    rows = {
        "frames": f"{plan.frames}, {plan.rate:g} per second, {plan.duration:.2f} s{filled}",
        "shots": f"{len(plan.shots)}, at {', '.join(times)} s",
        "size": f"{source}, for the model {sizes}, and back",
        **({"filters": f"{', '.join(plan.filters)}: {after}"} if plan.filters else {}),
        "chunk": f"{plan.chunk_size} frames at once on {plan.device}",
        **({"order": _ROWS.format(_megabytes(plan.whole_carry_bytes))} if plan.in_rows else {}),
        "memory": f"model {_megabytes(plan.model_bytes)}, chunk {chunk}, "
        f"carry {_megabytes(plan.carry_bytes)} on {plan.carry_on}; {_megabytes(plan.free_bytes)} free",
        "time": f"about {_span(plan.seconds)} once the model is loaded{filtering}",
        "result": f"{plan.result}{there}{resumed}",
        "disk": f"about {_megabytes(plan.disk_bytes)} while it works, {_megabytes(plan.result_bytes)} in the "
        f"end; {_megabytes(plan.free_disk_bytes)} free",
        "copied": ", ".join(plan.streams) or "no sound and no subtitles",
    }
    return [f"{name:12}{says}" for name, says in rows.items()]


def total(plans: Sequence[Plan]) -> str:
    """Return a line that sums up several plans, which are carried out one after the other."""
    seconds, written = sum(each.seconds for each in plans), sum(each.result_bytes for each in plans)
    return (
        f"{'together':12}{len(plans)} clips, {sum(each.frames for each in plans)} frames, about "
        f"{_span(seconds)}, {_megabytes(written)} in the end"
    )


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB" if count >= 1e7 else f"{count / 1e6:.2g} MB"


def _span(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{round(seconds)} s" if seconds < 120 else f"{seconds / 60:.1f} min"
