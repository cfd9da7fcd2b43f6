"""Clips: frames to iterate over once, and the clock and geometry that go with them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from zs2kit.errors import ClipError

if TYPE_CHECKING:
    import torch


class Frame(NamedTuple):
    """One picture of a clip and the moment at which it is shown."""

    image: NDArray[np.uint8]  # (height, width, 3) RGB
    pts: int  # presentation time, in ticks of the clip's time_base
    duration: int = 0  # in ticks; 0: until the next frame. `write` needs that of the last one


@dataclass(frozen=True)
class Color:
    """FFmpeg's colour tags of a stream, as its integers; 2 is "unspecified" (0 for the range)."""

    colorspace: int = 2
    primaries: int = 2
    trc: int = 2
    range: int = 0

    def resolve(self, width: int, height: int) -> Color:
        """Settle matrix and range, which conversion needs, as players do where they are not given."""
        usable = self.colorspace in (1, 4, 5, 6, 7, 9)  # BT.709, FCC, BT.601 (two), SMPTE 240M, BT.2020
        guess = 1 if width >= 1280 or height > 576 else 6  # as mpv and libplacebo draw the line
        return replace(self, colorspace=self.colorspace if usable else guess, range=self.range or 1)


@dataclass
class Clip:
    """Frames in order, to be iterated over once, and never held all at once.

    ``source`` names the file whose audio, between ``start`` and ``end`` seconds after its ``origin``, `write`
    copies next to the frames. Frames keep the pts that they have in the source.
    """

    frames: Iterable[Frame]
    width: int
    height: int
    rate: Fraction  # nominal frames per second
    time_base: Fraction  # seconds per tick of a pts
    frame_count: int | None = None  # None: not known before the end
    source: Path | None = None
    origin: Fraction = Fraction(0)  # when the source begins, with picture or sound, in seconds of its clock
    start: Fraction | None = None  # seconds into the source; None: from its beginning
    end: Fraction | None = None
    sample_aspect_ratio: Fraction = Fraction(1)
    color: Color = field(default_factory=Color)
    silent: bool = False  # the source is known to have no sound
    pix_fmt: str = "rgb24"  # how the source stores its pictures, as FFmpeg calls it
    blank: bool = False  # nothing is to be seen in its frames: text alone is the source

    @classmethod
    def from_images(cls, images: Iterable[NDArray[np.uint8]], rate: Fraction | float) -> Clip:
        """Make a clip of pictures, each (height, width, 3) RGB and of one size, shown ``rate`` a second."""
        images = iter(images)
        first = next(images, None)
        if first is None:
            raise ClipError("a clip needs at least one picture")
        rate = Fraction(rate).limit_denominator(1001)
        frames = (Frame(image, pts, 1) for pts, image in enumerate(chain([first], images)))
        return cls(frames, width=first.shape[1], height=first.shape[0], rate=rate, time_base=1 / rate)

    def __iter__(self) -> Iterator[Frame]:
        return iter(self.frames)

    def chunks(self, size: int) -> Iterator[list[Frame]]:
        """Yield lists of ``size`` consecutive frames; the last may be shorter."""
        frames = iter(self)
        while group := list(islice(frames, size)):
            yield group


@dataclass(eq=False)
class Chunk:
    """Consecutive frames of a clip on their way through the model; what plugins see.

    ``frames`` and ``pixels`` are None when text alone is the source. ``first`` is there for plugins of which
    `wants_first` is true, and None while that frame is drawn.
    """

    index: int  # position in the clip of the first frame
    length: int  # frames
    height: int  # of the pictures that the model makes
    width: int
    times: tuple[Fraction, ...] = ()  # when each frame is shown, in seconds
    frames: list[NDArray[np.uint8]] | None = None  # each (source height, source width, 3) RGB
    pixels: torch.Tensor | None = None  # (frames, 3, height, width) in [-1, 1], float32 on the CPU
    fit: Fit | None = None
    kept: NDArray[np.float32] | None = None  # what `keep` gave: (frames, source height, source width)
    first: NDArray[np.uint8] | None = None  # what was drawn for the shot's first frame: (height, width, 3)

    @property
    def indices(self) -> range:
        """The positions in the clip of this chunk's frames."""
        return range(self.index, self.index + self.length)

    def beginning(self) -> Chunk:
        """The chunk's first frame, as a chunk of its own."""
        frames = None if self.frames is None else self.frames[:1]
        pixels = None if self.pixels is None else self.pixels[:1]
        return replace(self, length=1, times=self.times[:1], frames=frames, pixels=pixels, kept=None)

    @property
    def images(self) -> NDArray[np.uint8]:
        """The source as the model gets it, in bytes: (frames, height, width, 3) RGB."""
        assert self.pixels is not None
        pixels = ((self.pixels + 1) * 127.5).round().numpy().astype(np.uint8)
        return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))


@dataclass(frozen=True)
class Fit:
    """How a source frame lies inside the model's picture: scaled keeping its shape, then padded."""

    source: tuple[int, int]  # (height, width)
    scaled: tuple[int, int]
    padded: tuple[int, int]

    @classmethod
    def into(
        cls, source: tuple[int, int], box: tuple[int, int], multiple: int, aspect: Fraction = Fraction(1)
    ) -> Fit:
        """Fit ``source`` (height, width; ``aspect`` is the shape of one pixel) into ``box``.

        Sides are padded up to ``multiple``, which the denoiser's down-sampling needs.
        """
        height, width = source
        displayed = width * float(aspect)
        scale = min(box[0] / height, box[1] / displayed)
        scaled = (max(1, round(height * scale)), max(1, round(displayed * scale)))
        rows, columns = (-(-side // multiple) * multiple for side in scaled)
        return cls(source, scaled, (rows, columns))

    @property
    def offset(self) -> tuple[int, int]:
        """Rows above and columns left of the picture that are padding."""
        return (self.padded[0] - self.scaled[0]) // 2, (self.padded[1] - self.scaled[1]) // 2

    def apply(self, image: NDArray[Any]) -> NDArray[Any]:
        """(source height, source width, ...) -> (padded height, padded width, ...), edges repeated."""
        import cv2

        if image.shape[:2] != self.scaled:
            shrinks = self.scaled[0] < image.shape[0]
            image = cv2.resize(
                image, self.scaled[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
            )
        if self.padded == self.scaled:
            return image
        top, left = self.offset
        bottom, right = self.padded[0] - self.scaled[0] - top, self.padded[1] - self.scaled[1] - left
        return cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_REPLICATE)

    def undo(self, image: NDArray[Any]) -> NDArray[Any]:
        """(padded height, padded width, ...) -> (source height, source width, ...)."""
        import cv2

        top, left = self.offset
        image = image[top : top + self.scaled[0], left : left + self.scaled[1]]
        if image.shape[:2] == self.source:
            return np.ascontiguousarray(image)
        shrinks = self.source[0] < image.shape[0]
        return cv2.resize(
            image, self.source[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
        )
