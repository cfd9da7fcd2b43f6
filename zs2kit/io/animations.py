"""Animations for the web, GIF and WebP: encoded as a whole, from segments without loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from zs2kit.clip import Clip
from zs2kit.errors import notify
from zs2kit.io.filters import graph, pulled
from zs2kit.io.pillow import plays
from zs2kit.io.webp import write_last_duration

_GIF = "gif"  # FFmpeg's encoder; the other is libwebp_anim


def write_animation(
    target: Path, encoder: str, clip: Clip, segments: list[Path], times: list[Fraction]
) -> None:
    """Encode the pictures of the segments; ``times`` are their seconds, and last that of the end.

    They play as often as those of the clip's source or, if that is no animation, without end. If pictures
    follow one another faster than the format allows, some are left out, and a notice says how many.
    """
    # Browsers show a picture for 0.1 s if a GIF says that it is shorter than 0.02 s.
    clock, shortest = (Fraction(1, 100), 2) if encoder == _GIF else (Fraction(1, 1000), 1)
    ticks = [round((time - times[0]) / clock) for time in times]
    kept: dict[int, int] = {}  # the ticks of pictures, by their position
    free = 0  # from when on a picture may be shown
    for index, (due, following) in enumerate(pairwise(ticks)):
        if index == 0 or max(due, free) < following:
            kept[index] = max(due, free)
            free = kept[index] + shortest
    if len(kept) < len(ticks) - 1:
        notify(
            "frames-lost",
            f"a {target.suffix} file shows at most {1 / (clock * shortest)} frames per second, so "
            f"{len(ticks) - 1 - len(kept)} of {len(ticks) - 1} are left out",
        )
    rest = max(ticks[-1], free) - free + shortest

    def pictures() -> Iterator[VideoFrame]:
        for index, picture in enumerate(each for segment in segments for each in _decoded(segment)):
            if index in kept:
                found = picture.reformat(format="bgra", threads=1)
                found.pts, found.time_base = kept[index], clock
                yield found

    count = plays(clip.source)
    if encoder == _GIF:  # it tells how often it is repeated: -1 is never, 0 is without end
        frames, pix_fmt = _with_palette(pictures), "pal8"
        options = {"loop": str(-1 if count == 1 else max(0, count - 1)), "final_delay": str(rest)}
    else:
        frames, pix_fmt = pictures(), "bgra"
        options = {"loop": str(count)}
    with av.open(f"file:{target}", "w", format=target.suffix[1:].lower(), container_options=options) as file:
        stream = file.add_stream(encoder, clip.rate, width=clip.width, height=clip.height)
        assert isinstance(stream, VideoStream)
        stream.pix_fmt = pix_fmt
        stream.codec_context.time_base = clock
        if encoder != _GIF:
            stream.options = {"quality": "90"}
        elif clip.encoding.alpha:  # whole pictures
            stream.options = {"gifflags": "-offsetting-transdiff", "global_palette": "0"}
        for picture in frames:
            file.mux(stream.encode(picture))
        file.mux(stream.encode())
    if encoder != _GIF:
        write_last_duration(target, rest)
    elif clip.encoding.alpha:
        _clear_between(target)


def _decoded(segment: Path) -> Iterator[VideoFrame]:
    with av.open(f"file:{segment}") as container:
        yield from container.decode(video=0)


def _with_palette(pictures: Callable[[], Iterator[VideoFrame]]) -> Iterator[VideoFrame]:
    """Yield the pictures in 256 colours, the same for all of them, so that nothing flickers."""
    first = next(pictures())
    makes = graph("palettegen", "", first)
    for picture in pictures():
        makes.push(picture)
    makes.push(None)
    (palette,) = pulled(makes)
    uses = graph("paletteuse", "diff_mode=rectangle", first, palette)
    uses.push(palette, at=1)
    for picture in pictures():
        uses.push(picture, at=0)
        yield from pulled(uses)
    uses.push(None)
    yield from pulled(uses)


def _clear_between(path: Path) -> None:
    """Write into a GIF that each picture is removed before the next one, which may be more transparent."""
    data = bytearray(path.read_bytes())

    def after_table(packed: int, place: int) -> int:
        return place + (3 << (packed & 7) + 1 if packed & 0x80 else 0)

    place = after_table(data[10], 13)
    while data[place] != 0x3B:  # the end
        if data[place] == 0x2C:  # a picture, and the width of its codes
            place = after_table(data[place + 9], place + 10) + 1
        else:
            if data[place + 1] == 0xF9:
                data[place + 3] = data[place + 3] & ~0x1C | 2 << 2
            place += 2
        while data[place]:  # blocks, each after its length
            place += data[place] + 1
        place += 1
    path.write_bytes(data)
