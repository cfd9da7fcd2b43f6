"""What a filter is: a dataclass of options that makes new pictures from a clip's pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, ClassVar

from zs2kit.plugins import Extension
from zs2kit.settings import Cuts

if TYPE_CHECKING:
    import torch

    from zs2kit.carry import Carry
    from zs2kit.clip import Clip
    from zs2kit.filters.filtered import Filtered


class Filter(Extension):
    """The base of all filters, which are dataclasses: their fields are options.

    A filter has a method `run`, which gets a few frames of a shot and returns what becomes of them. The rest
    of the class says how many frames `run` gets, and what size and rate the result has. zs2kit takes care of
    everything else: times, cuts, what passes from chunk to chunk, colours of more than 8 bits, and resuming.

    Calling a filter with a clip, ``Smooth(2)(clip)``, returns the filtered clip, whose frames are made while
    it is iterated over. It works on a copy of itself.
    """

    _group, _word = "zs2kit.filters", "filter"

    # The most frames that `run` gets at once. It must not change the result.
    chunk_size: ClassVar[int] = 1
    # How many of the following frames `run` sees too, as far as the shot has so many
    ahead: ClassVar[int] = 0
    # How many frames `run` returns for each one that it gets; the further ones are shown before the next
    per_frame: ClassVar[int] = 1
    # Whether, after an edit, it gets the pictures in the model's size rather than in the source's. What it
    # returns is then brought to the result's size, and what a mask keeps is put back last.
    model_size: ClassVar[bool] = False

    if TYPE_CHECKING:
        # Where the filter's networks compute, and in which precision; set before `prepare` is called
        device: torch.device
        dtype: torch.dtype

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Return the result's (height, width) for a clip of this size.

        If `run` returns pictures of another size, they are resized to this one. For a filter with
        `model_size`, height and width are the source's, though the pictures that it gets have the model's.
        """
        return height, width

    def check(self, clip: Clip) -> None:
        """Raise a `Zs2Error` if ``clip`` can't be filtered, as far as that shows without loading anything.
        ``clip`` has the size, rate and number of frames of what is to be filtered, but perhaps no frames: it
        may stand for an edit whose model isn't loaded yet.
        """

    def prepare(self, clip: Clip) -> None:
        """Load what it needs, and raise a `Zs2Error` if it can't be used with ``clip``.

        Called once for each filtered clip, before any frame is made. ``clip`` has the size of the pictures
        that `run` will get.
        """

    def run(self, passage: Passage, carry: Carry) -> torch.Tensor:
        """Return what becomes of the passage's frames, (frames * per_frame, 3, any height, any width).

        Values are floats in [0, 1]; others are clipped. ``carry`` holds named tensors: the next call finds
        what this one stores there, even after an interruption. It is empty at the start of each shot. `run`
        is called without gradients.
        """
        raise TypeError(f"{type(self).__name__} doesn't say what becomes of its frames")

    def declared(self, clip: Clip) -> Clip:
        """Return a clip without frames that has the size, rate and number of frames of the result."""
        height, width = self.size(clip.height, clip.width)
        return clip.with_frames(
            (),
            width=width,
            height=height,
            rate=clip.rate * self.per_frame,
            time_base=clip.time_base / self.per_frame,
            frame_count=clip.frame_count and clip.frame_count * self.per_frame,
            per_frame=clip.per_frame * self.per_frame,
        )

    def times(self, before: Sequence[Fraction], end: Fraction) -> list[Fraction]:
        """Return when the result's frames are shown, for a clip whose frames are shown at ``before``."""
        return [
            start + (stop - start) * part / self.per_frame
            for start, stop in zip(before, [*before[1:], end], strict=True)
            for part in range(self.per_frame)
        ]

    def __call__(
        self, clip: Clip, *, cuts: Cuts = "auto", device: str | None = None, dtype: str | None = None
    ) -> Filtered:
        """Return ``clip`` filtered; see `zs2kit.Filtered`.

        Raises what `check` and `prepare` raise, and `UsageError` for a wrong value.
        """
        from zs2kit.filters.filtered import Filtered  # needs torch

        return Filtered(clip, self, cuts=cuts, device=device, dtype=dtype)


def declared(clip: Clip, filters: Sequence[Filter]) -> Clip:
    """Return a clip without frames that has the size, rate and so on of ``clip`` after ``filters``.
    Raises what their `check` raises.
    """
    for each in filters:
        each.check(clip)
        clip = each.declared(clip)
    return clip


@dataclass(frozen=True)
class Passage:
    """Consecutive frames of one shot on their way through a filter; tensors are float32 on the CPU."""

    index: int  # position of the first frame in the clip
    pixels: torch.Tensor  # (frames, 3, height, width) in [0, 1], as a display shows them
    ahead: torch.Tensor  # the following frames of the shot: as many as `Filter.ahead` asks for, or fewer
    # The same frames and those ahead as they were before an edit, at their own size: (frames + ahead, 3,
    # source height, source width). None if there was no edit, or if frames were put in between.
    sources: torch.Tensor | None = None
