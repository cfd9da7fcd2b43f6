"""Clips: frames in order, with their clock and geometry."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from fractions import Fraction
from functools import cached_property, partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from zs2kit.encoding import Encoding
from zs2kit.errors import ClipError, UsageError, notify

if TYPE_CHECKING:
    import torch


# Turns a clip into HTML. zs2kit.io.showing sets it, since encoding is beyond this module.
html: Callable[[Clip], str] | None = None


class Frame(NamedTuple):
    """One picture of a clip and the moment at which it is shown."""

    image: NDArray[np.uint8]  # (height, width, 3) RGB, as a display shows it; what models and plugins see
    pts: int  # presentation time, in ticks of the clip's time_base
    duration: int = 0  # in ticks; 0: until the next frame. `write` uses only that of the last frame
    stored: NDArray[Any] | None = None  # as the source stores it, if that is more: see `Clip.encoding`
    cut: bool | None = None  # whether it starts a shot; None: not known yet
    source: Frame | None = None  # what it was drawn from, if it was edited
    keep: NDArray[np.float32] | None = None  # (height, width), 1 where the picture is still the source's
    fill: NDArray[np.float32] | None = None  # how to fill it in, see `zs2kit.filling`; None: it is drawn


@dataclass(frozen=True)
class Color:
    """A stream's colour tags, as FFmpeg's integers; 2 is "unspecified" (0 for the range)."""

    colorspace: int = 2
    primaries: int = 2
    trc: int = 2
    range: int = 0

    def resolve(self, width: int, height: int) -> Color:
        """Fill in a missing matrix or range, which conversion needs, as players do."""
        usable = self.colorspace in (1, 4, 5, 6, 7, 9)  # BT.709, FCC, BT.601 (two), SMPTE 240M, BT.2020
        guess = 1 if width >= 1280 or height > 576 else 6  # HD or SD, by the rule of mpv and libplacebo
        return replace(self, colorspace=self.colorspace if usable else guess, range=self.range or 1)


@dataclass
class Clip:
    """Frames in order, never all in memory at once, and what is known about them.

    Each iteration over a clip starts with its first frame. If ``frames`` is an iterator, the clip can be
    iterated over only once: a second time raises `ClipError`.

    ``source`` is the file from which `write` copies the sound, from ``start`` to ``end`` in seconds after its
    ``origin``. Frames keep the pts that they have in the source.
    """

    frames: Iterable[Frame] = field(repr=False, compare=False)
    width: int
    height: int
    rate: Fraction  # nominal frames per second
    time_base: Fraction  # seconds per tick of a pts
    frame_count: int | None = None  # None: not known before the end
    source: Path | None = None
    origin: Fraction = Fraction(0)  # time of the source's first picture or sound, in seconds of its clock
    start: Fraction | None = None  # seconds into the source; None: from its beginning
    end: Fraction | None = None  # seconds into the source; None: to its end
    sample_aspect_ratio: Fraction = Fraction(1)
    color: Color = field(default_factory=Color)
    silent: bool = False  # whether the source is known to have no sound
    pix_fmt: str = "rgb24"  # how the source stores its pictures, by FFmpeg's name
    encoding: Encoding = field(default_factory=Encoding)  # of the frames' ``stored``, unless it is plain
    deinterlaced: bool = False
    reader: str = "pyav"  # what decodes the source
    blank: bool = False  # whether its frames show nothing, since the result is made from text alone
    per_frame: int = 1  # how many frames it has, after filters, for each frame of the source
    _used: bool = field(default=False, init=False, repr=False, compare=False)

    @classmethod
    def from_images(cls, images: Iterable[Any], rate: Fraction | float) -> Clip:
        """Make a clip of pictures, all of the same size, at ``rate`` per second.

        images: NumPy arrays or PyTorch tensors in RGB, each (height, width, 3) or (3, height, width), uint8
        or floats in [0, 1]; or PIL pictures. They may come in a list, in one array or tensor, as a
        ``decord.VideoReader``, or from an iterator. With an iterator, the clip can be iterated over only
        once.

        Raises `ClipError` if something is not a picture: for the first one right away, for the others when
        their turn comes.
        """
        again = hasattr(images, "__len__") and hasattr(images, "__getitem__")
        rest = iter(images)
        first = next(rest, None)
        if first is None:
            raise ClipError("a clip needs at least one picture")
        height, width = _picture(first, 0, None).shape[:2]
        rate = Fraction(rate).limit_denominator(1001)
        frames: Iterable[Frame] = numbered(chain([first], rest), (height, width))
        if again:
            frames = Anew(partial(numbered, images, (height, width)))
        return cls(frames, width, height, rate, 1 / rate, len(images) if again else None)  # type: ignore[arg-type]

    def with_frames(self, frames: Iterable[Frame], **changes: Any) -> Clip:
        """Return a clip like this one, but with other ``frames`` and with ``changes`` to further fields."""
        facts = {each.name: getattr(self, each.name) for each in fields(Clip) if each.init}
        return Clip(**{**facts, "frames": frames, **changes})

    def __repr__(self) -> str:
        """Describe the clip without reading a frame."""
        name = f" {self.source}" if self.source else ""
        count = "frames" if self.frame_count is None else f"{self.frame_count} frames"
        lasts = "" if self.frame_count is None else f", {float(self.frame_count / self.rate):.2f} s"
        rate = f"{float(self.rate):.5g}"
        return (
            f"<{type(self).__name__}{name}: {self.width}x{self.height}, {count} at {rate} per second{lasts}>"
        )

    def _repr_html_(self) -> str | None:
        """Return a small video with sound for notebooks; None if that would use up the frames."""
        return None if html is None or isinstance(self.frames, Iterator) else html(self)

    def frame(self, number: int) -> Frame:
        """Return one frame by its position in the clip, starting at 0. Iterating gives the same frame there.

        In a clip that was read from a file, this is quick for any frame; other clips are iterated over up to
        that frame. Raises `UsageError` if there is no such frame.
        """
        if isinstance(self.frames, Seekable):
            return self.frames.frame(number)
        found = None if number < 0 else next(islice(self, number, None), None)
        if found is None:
            raise UsageError(f"there is no frame {number}", "the first frame of a clip is 0")
        return found

    def at(self, seconds: Fraction | float) -> Frame:
        """Return the frame that is shown so many seconds after the first frame appears.

        After the clip's end, this is its last frame. Raises `UsageError` for a time before 0.
        """
        if not 0 <= seconds < math.inf:
            raise UsageError(f"`seconds` must be 0 or more, not {seconds}")
        if isinstance(self.frames, Seekable):
            return self.frames.at(seconds)
        found = first = None
        for frame in self:
            first = frame.pts if first is None else first
            if found is not None and (frame.pts - first) * self.time_base > seconds:
                break
            found = frame
        if found is None:
            raise ClipError("the clip has no frame")
        return found

    def __iter__(self) -> Iterator[Frame]:
        frames = iter(self.frames)
        if frames is self.frames:  # an iterator, which yields each frame only once
            if self._used:
                raise ClipError(
                    "this clip was already iterated over, and its frames are gone",
                    "make it from a file or a list rather than an iterator, or make it again",
                )
            self._used = True
        return frames

    def chunks(self, size: int) -> Iterator[list[Frame]]:
        """Yield lists of ``size`` consecutive frames; the last may be shorter."""
        frames = iter(self)
        while group := list(islice(frames, size)):
            yield group


@runtime_checkable
class Seekable(Protocol):
    """Frames that can be read in any order; see `Clip.frame` and `Clip.at`."""

    def frame(self, number: int) -> Frame:
        """Return a frame by its position."""
        ...

    def at(self, seconds: Fraction | float) -> Frame:
        """Return the frame that is shown so many seconds after the first one."""
        ...

    def count(self) -> int | None:
        """Return how many there are; None if that can be found out only by iterating."""
        ...


@dataclass(frozen=True)
class Anew:
    """Frames that can be iterated over many times: ``call`` returns a new iterator each time."""

    call: Callable[[], Iterator[Frame]]

    def __iter__(self) -> Iterator[Frame]:
        return self.call()


def numbered(images: Iterable[Any], size: tuple[int, int]) -> Iterator[Frame]:
    """Yield a frame for each of ``images``, all of ``size`` (height, width), shown for one tick each."""
    for pts, image in enumerate(images):
        yield Frame(_picture(image, pts, size), pts, 1)


def _picture(image: Any, index: int, size: tuple[int, int] | None) -> NDArray[np.uint8]:
    """Convert a picture to (height, width, 3) RGB uint8; raise `ClipError` if that can't be done."""
    if isinstance(image, Frame):
        image = image.image
    elif hasattr(image, "convert"):  # PIL's
        image = image.convert("RGB")
    elif hasattr(image, "asnumpy"):  # decord's
        image = image.asnumpy()
    elif hasattr(image, "detach"):  # PyTorch's
        image = image.detach().cpu()
    array = np.asarray(image)
    if array.ndim == 3 and array.shape[2] != 3 and array.shape[0] == 3:
        array = array.transpose(1, 2, 0)
    if array.ndim == 2 and array.shape[1] > 4:  # a grey picture; a narrower one is a row of a colour picture
        array = np.repeat(array[:, :, None], 3, axis=2)
    if array.ndim == 3 and array.shape[2] == 4:
        if index == 0:
            notify("alpha", "these pictures have alpha, which is left out")
        array = array[:, :, :3]
    if array.dtype == np.uint16:
        array = array / 65535
    is_float = np.issubdtype(array.dtype, np.floating)
    if array.ndim != 3 or array.shape[2] != 3 or not (is_float or array.dtype == np.uint8):
        raise ClipError(
            f"picture {index} is {array.dtype} of shape {array.shape}",
            "give RGB pictures of shape (height, width, 3), uint8 or floats from 0 to 1",
        )
    if size is not None and array.shape[:2] != size:
        (height, width), (rows, columns) = size, array.shape[:2]
        raise ClipError(
            f"picture {index} is {columns}x{rows} pixels, but the first one is {width}x{height}",
            "give pictures of the same size",
        )
    if is_float:
        if not (array.min() >= 0 and array.max() <= 1):  # refuses NaN, too
            raise ClipError(
                f"picture {index} has numbers from {array.min():g} to {array.max():g}",
                "give floats from 0 to 1, or uint8",
            )
        array = np.rint(array * 255).astype(np.uint8)
    return array


@dataclass(eq=False)
class Chunk:
    """Consecutive frames of a clip on their way through the model, as plugins see them.

    A clip made from text alone has no source: ``frames`` is None, and asking for ``images`` or ``pixels``
    raises `ValueError`. ``first`` is set if a plugin's `wants_first` is true, except while that first frame
    itself is drawn.
    """

    index: int  # position of the first frame in the clip
    length: int  # number of frames
    height: int  # of the pictures that the model draws
    width: int
    times: tuple[Fraction, ...] = ()  # when each frame is shown, in seconds
    frames: list[NDArray[np.uint8]] | None = None  # each (source height, source width, 3) RGB, as shown
    fitted: NDArray[np.uint8] | None = None  # the same at the model's size: (frames, height, width, 3)
    fit: Fit | None = None
    first: NDArray[np.uint8] | None = None  # the shot's first frame as it was drawn: (height, width, 3)
    positions: tuple[int, ...] = ()  # of the frames in the clip; () if they follow one another
    fills: tuple[NDArray[np.float32] | None, ...] = ()  # as `Frame.fill`; () if all are drawn

    @property
    def indices(self) -> Sequence[int]:
        """The positions in the clip of this chunk's frames, in rising order."""
        return self.positions or range(self.index, self.index + self.length)

    @property
    def images(self) -> NDArray[np.uint8]:
        """The source as the model gets it: (frames, height, width, 3) RGB, uint8."""
        if self.fitted is None:
            raise ValueError("a clip made from text alone has no source frames")
        return self.fitted

    @cached_property
    def pixels(self) -> torch.Tensor:
        """The source as the model gets it: (frames, 3, height, width) in [-1, 1], float32 on the CPU."""
        import torch

        return torch.from_numpy(self.images).permute(0, 3, 1, 2).float() / 127.5 - 1

    @cached_property
    def places(self) -> list[int]:
        """Which of the frames are drawn, as positions in the chunk."""
        return [place for place in range(self.length) if not self.fills or self.fills[place] is None]

    @cached_property
    def drawn(self) -> Chunk:
        """The chunk reduced to the frames that are drawn."""
        return self if len(self.places) == self.length else self.only(self.places)

    def only(self, places: Sequence[int]) -> Chunk:
        """Return the chunk reduced to some of its frames, given as positions in the chunk."""
        return replace(
            self,
            index=self.indices[places[0]],
            length=len(places),
            times=tuple(self.times[place] for place in places) if self.times else (),
            frames=None if self.frames is None else [self.frames[place] for place in places],
            fitted=None if self.fitted is None else self.fitted[places],
            positions=tuple(self.indices[place] for place in places),
            fills=tuple(self.fills[place] for place in places) if self.fills else (),
        )


@dataclass(frozen=True)
class Fit:
    """How a source frame lies inside the model's picture: scaled without distortion, then padded."""

    source: tuple[int, int]  # (height, width)
    scaled: tuple[int, int]
    padded: tuple[int, int]

    @classmethod
    def into(
        cls, source: tuple[int, int], box: tuple[int, int], multiple: int, aspect: Fraction = Fraction(1)
    ) -> Fit:
        """Fit ``source`` (height, width) into ``box`` (height, width).

        Sides are padded to multiples of ``multiple``, which the denoiser's down-sampling needs. ``aspect`` is
        a source pixel's width divided by its height.
        """
        height, width = source
        displayed = width * float(aspect)
        scale = min(box[0] / height, box[1] / displayed)
        scaled = (max(1, round(height * scale)), max(1, round(displayed * scale)))
        rows, columns = (-(-side // multiple) * multiple for side in scaled)
        return cls(source, scaled, (rows, columns))

    @property
    def offset(self) -> tuple[int, int]:
        """How many rows of padding are above the picture, and how many columns are to its left."""
        return (self.padded[0] - self.scaled[0]) // 2, (self.padded[1] - self.scaled[1]) // 2

    def apply(self, image: NDArray[Any]) -> NDArray[Any]:
        """(source height, source width, ...) -> (padded height, padded width, ...), with edges repeated."""
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

    def cropped(self, image: NDArray[Any]) -> NDArray[Any]:
        """(padded height, padded width, ...) -> (scaled height, scaled width, ...)."""
        top, left = self.offset
        return image[top : top + self.scaled[0], left : left + self.scaled[1]]

    def undo(self, image: NDArray[Any]) -> NDArray[Any]:
        """(padded height, padded width, ...) -> (source height, source width, ...)."""
        return resized(self.cropped(image), self.source)


def resized(image: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Resize a picture (height, width, ...) to ``size``; averages if it shrinks, else interpolates."""
    import cv2

    if image.shape[:2] == size:
        return np.ascontiguousarray(image)
    way = cv2.INTER_AREA if size[0] < image.shape[0] else cv2.INTER_CUBIC
    return cv2.resize(image, size[::-1], interpolation=way)
