"""FFmpeg's filters, for pictures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import av
import av.filter
from av.video.frame import VideoFrame


def graph(name: str, options: str, *inputs: VideoFrame) -> Any:
    """Return a graph of one filter, whose inputs take pictures like these."""
    made: Any = av.filter.Graph()
    filters = made.add(name, options)
    for pad, picture in enumerate(inputs):
        kind = {"width": picture.width, "height": picture.height, "format": picture.format}
        made.add_buffer(**kind, time_base=picture.time_base).link_to(filters, 0, pad)
    filters.link_to(made.add("buffersink"))
    made.configure()
    return made


def pulled(made: Any) -> Iterator[VideoFrame]:
    """Yield the pictures that the graph has ready."""
    with suppress(av.BlockingIOError, av.EOFError):
        while True:
            yield made.vpull()
