"""Steady: averages flicker away along the motion of the clip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from zs2kit.filters.base import Filter, Passage
from zs2kit.settings import FILE, option

if TYPE_CHECKING:
    import torch

    from zs2kit.carry import Carry
    from zs2kit.clip import Clip


@dataclass(eq=False)
class Steady(Filter):
    """Takes flicker out of a clip: each frame is averaged with the frames before it, along the motion.

    After an edit, the source's motion is used. If another program made the clip from a source, name that
    source. Otherwise, the motion is found in the clip itself. A frame stays as it is where it shows something
    other than the average, or where the motion is uncertain.
    """

    momentum: float = option(
        0.95, "How much of the average is kept from frame to frame; 0 changes nothing.", minimum=0, maximum=1
    )
    source: str | None = option(
        None,
        "The clip that this one was made from. It must have the same size and length; its motion is used.",
        kind=FILE,
    )

    chunk_size = 4  # as many flows are found at once as there are cores

    def check(self, clip: Clip) -> None:
        from zs2kit.companion import Companion

        if self.source:
            Companion(self.source, clip)  # compares size and length

    def prepare(self, clip: Clip) -> None:
        from zs2kit.companion import Companion

        self._source = Companion(self.source, clip) if self.source else None

    def run(self, passage: Passage, carry: Carry) -> torch.Tensor:
        import numpy as np
        import torch

        from zs2kit.carry import Carry
        from zs2kit.clip import Chunk, resized
        from zs2kit.motion import Averages
        from zs2kit.scan import to_images

        count, _, height, width = passage.pixels.shape
        if self._source:
            shown = self._source.frames_of(Chunk(passage.index, count, height, width))
        else:
            shown = [*to_images(passage.pixels if passage.sources is None else passage.sources)]
        images = np.stack([resized(each, (height, width)) for each in shown])
        following = Carry()
        averages = Averages(self.momentum, images, carry, following, torch.device("cpu"))
        made = averages.finish(passage.pixels)
        carry.update(following)
        return made
