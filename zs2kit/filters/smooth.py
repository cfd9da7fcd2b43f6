"""Smooth: more frames, in between those that there are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from zs2kit.errors import UsageError
from zs2kit.filters.base import Filter, Passage
from zs2kit.settings import option

if TYPE_CHECKING:
    import torch

    from zs2kit.carry import Carry
    from zs2kit.clip import Clip


@dataclass(eq=False)
class Smooth(Filter):
    """Puts frames between the frames of a clip, so that it moves more smoothly. It lasts as long as before.

    The frames in between are made of both neighbours, moved along the optical flow from one to the other. The
    last frame of a shot has no neighbour, and is shown again.
    """

    factor: int = option(2, "How many times as many frames there are in the end.", minimum=1, maximum=16)

    ahead = 1

    @property
    def per_frame(self) -> int:  # type: ignore[override]
        """As many as the factor says."""
        return self.factor

    def prepare(self, clip: Clip) -> None:
        if clip.frame_count == 1:
            raise UsageError("a clip of one frame has nothing to put frames between", "give a longer one")

    def run(self, passage: Passage, carry: Carry) -> torch.Tensor:
        import torch

        from zs2kit.between import between, motion_of
        from zs2kit.scan import to_images

        frames = torch.cat([passage.pixels, passage.ahead[:1]])
        images = to_images(frames)
        size = (images.shape[1], images.shape[2])
        made = []
        for place, frame in enumerate(passage.pixels):
            made.append(frame)
            if place + 1 == len(frames) or self.factor == 1:
                made += [frame] * (self.factor - 1)
                continue
            motion = motion_of(images[place], images[place + 1], size)
            made += [
                between(frame, frames[place + 1], motion, part / self.factor)
                for part in range(1, self.factor)
            ]
        return torch.stack(made)
