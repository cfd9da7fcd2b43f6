"""What a clip's length costs: no memory, and no time before the first frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, TypeVar

import av
import torch
from safetensors.torch import save_file

from zs2kit import io
from zs2kit.editing import edit
from zs2kit.filters import Diffuse, Filter, Smooth, Steady, Upscale, through
from zs2kit.memory import peak_of, resident_peak
from zs2kit.model import Model
from zs2kit.networks.loading import BUNDLED
from zs2kit.testing import drawn_clip, tiny_models

T = TypeVar("T")
CLIP: dict[str, Any] = {"width": 64, "height": 64, "rate": Fraction(24)}


def measure(name: str | None, frames: tuple[int, int], minutes: tuple[int, int], steps: int) -> None:
    """Print the peaks of two edits, each in a process of its own, and then the times of two first frames."""
    print(f"{name or BUNDLED}, {steps} steps, clips of 64x64 pixels and 24 frames a second")
    with TemporaryDirectory() as folder:
        peaks = []
        for count in frames:
            clip = io.write(Path(folder) / f"{count}.mp4", drawn_clip(count, **CLIP))
            peaks.append(_alone(_peaks, name, clip, steps))
            for kind, peak in peaks[-1].items():
                print(f"{count} frames: {peak / 1e6:.1f} MB of {kind} memory")
        for kind in peaks[0]:
            ratio = peaks[1][kind] / peaks[0][kind]
            print(f"{kind} memory, {frames[1]} frames divided by {frames[0]}: {ratio:.4f}")
        minute = io.write(Path(folder) / "minute.mp4", drawn_clip(60 * 24, **CLIP))
        clips = [_repeated(minute, length, Path(folder) / f"{length}-minutes.mp4") for length in minutes]
        times = _alone(_first_frames, name, clips, steps)
        for length, clip, time in zip(minutes, clips, times, strict=True):
            print(f"{length} min, {clip.stat().st_size / 1e6:.1f} MB: the first frame after {time:.2f} s")
        print(f"first frame, {minutes[1]} min minus {minutes[0]} min: {times[1] - times[0]:.2f} s")


def filters_section(frames: tuple[int, int], side: int = 16) -> str:
    """Measure the peaks of all filters in a chain, for two lengths; return the page's section."""
    with TemporaryDirectory() as folder:
        clips = [
            io.write(Path(folder) / f"{count}.mp4", drawn_clip(count, width=side, height=side))
            for count in frames
        ]
        peaks = [_alone(_filtered_peak, clip) for clip in clips]
    rows = [f"| {count} | {peak / 1e6:.1f} |" for count, peak in zip(frames, peaks, strict=True)]
    about = f"A clip of {side}x{side} pixels goes through `steady`, `diffuse`, `upscale` and `smooth`."
    table = "\n".join(["| frames | resident memory, MB |", "|---|---|", *rows])
    return (
        f"\n## Memory of filters\n\n{about}\n{FILTERS}\n{table}\n\n"
        f"{frames[1]} frames take {peaks[1] / peaks[0]:.4f} times as much as {frames[0]} (wanted: at most "
        "1.02).\n"
    )


FILTERS = """The networks of `diffuse` and `upscale` are tiny and have random weights, so that frames that are
held would be noticed. Each length is measured in a process of its own, at its peak.
`python -m zs2kit.bench memory --filters --docs docs` makes this section.
"""


def _filtered_peak(clip: Path) -> int:
    """The most bytes held at once while a file goes through all four filters."""
    io.write(clip.with_name("filtered.mp4"), through(io.read(clip), all_filters(clip.parent)), overwrite=True)
    return resident_peak()


def all_filters(folder: Path, factor: float = 2.0) -> list[Filter]:
    """Return the four filters, with tiny networks of random weights; that of upscale is put in ``folder``.

    After an edit, diffuse gets the model's pictures, since it comes before upscale. factor: how much larger
    the two make a clip, or an edit beyond its source's size.
    """
    from spandrel.architectures.Compact.__arch.SRVGG import SRVGGNetCompact

    torch.manual_seed(0)
    path = folder / "tiny.safetensors"
    save_file(SRVGGNetCompact(num_feat=8, num_conv=2, upscale=2).state_dict(), path)
    return [
        Steady(),
        Diffuse(factor, str(tiny_models()["upscaler"]), num_inference_steps=1, guidance_scale=1.0),
        Upscale(factor, str(path)),
        Smooth(2),
    ]


def _alone(work: Callable[..., T], *arguments: object) -> T:
    """``work(*arguments)``, by a process of its own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(work, *arguments).result()


def _peaks(name: str | None, clip: Path, steps: int) -> dict[str, int]:
    """The most bytes held at once while a file is edited, from when the model is loaded."""
    model = Model.load(name or BUNDLED)
    edited = edit(
        io.read(clip), "a red robot", plugins=(), model=model, num_inference_steps=steps, chunk_size=8
    )
    taken = peak_of(lambda: io.write(clip.with_name("edited.mp4"), edited, overwrite=True), model.device)
    assert taken is not None
    peaks = {"resident": resident_peak()}
    if model.device.type == "cuda":
        peaks["device"] = torch.cuda.max_memory_allocated(model.device)
    return peaks


def _first_frames(name: str | None, clips: Sequence[Path], steps: int, repeats: int = 5) -> list[float]:
    """Seconds from opening each file to its first edited frame, the least of some."""
    model = Model.load(name or BUNDLED)
    times: list[list[float]] = [[] for _ in clips]
    for _ in range(repeats):
        for clip, those in zip(clips, times, strict=True):
            begun = perf_counter()
            edited = edit(
                io.read(clip), "a red robot", plugins=(), model=model, num_inference_steps=steps, chunk_size=8
            )
            next(iter(edited))
            those.append(perf_counter() - begun)
    return [min(each) for each in times]


def _repeated(source: Path, times: int, target: Path) -> Path:
    """Write the packets of a file over and over again, which is quicker than to encode so many."""
    with av.open(str(target), "w") as output:
        copy = None
        for turn in range(times):
            with av.open(str(source)) as container:
                stream = container.streams.video[0]
                copy = copy or output.add_stream_from_template(stream)
                assert stream.time_base is not None and stream.duration is not None
                shift = turn * round(Fraction(60) / stream.time_base)
                for packet in container.demux(stream):
                    if packet.pts is None or packet.dts is None:
                        continue  # at the end
                    packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, copy
                    output.mux(packet)
    return target
