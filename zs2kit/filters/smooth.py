"""Smooth: new frames between those of a clip."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zs2kit.errors import ModelError, UsageError
from zs2kit.filters.base import Filter, Passage
from zs2kit.plugins import name_of
from zs2kit.settings import MODEL, option

if TYPE_CHECKING:
    import torch

    from zs2kit.carry import Carry
    from zs2kit.clip import Clip
    from zs2kit.networks.rife import Rife


@dataclass(eq=False)
class Smooth(Filter):
    """Puts new frames between those of a clip, so that it moves more smoothly. It lasts as long as before.

    A new frame is made from both neighbours, moved along the optical flow from one to the other; or by RIFE,
    if you have its weights. After the last frame of a shot there is no neighbour, so that frame is repeated.
    """

    factor: int = option(2, "How many times as many frames there are in the end.", minimum=1, maximum=16)
    model: str | None = option(
        None,
        "The weights of RIFE 4.0: flownet.pkl, or the same as .safetensors. RIFE then makes the new frames. "
        "Only tensors are read from the file.",
        shown="optical flow",
        kind=MODEL,
    )

    ahead = 1

    @property
    def per_frame(self) -> int:  # type: ignore[override]
        """The factor."""
        return self.factor

    def check(self, clip: Clip) -> None:
        if clip.frame_count == 1:
            raise UsageError(
                f"filter '{name_of(self)}': a clip of one frame has nothing to put frames between",
                "give a longer one",
            )
        if self.model is not None and not os.path.isfile(self.model):
            raise ModelError(
                f"`{name_of(self)}.model`: there is no file {self.model}", "name RIFE's flownet.pkl"
            )

    def prepare(self, clip: Clip) -> None:
        self._network: Rife | None = None
        if self.model is not None:
            from zs2kit.networks.rife import Rife

            self._network = Rife.load(self.model, self.device, f"{name_of(self)}.model")

    def run(self, passage: Passage, carry: Carry) -> torch.Tensor:
        import torch

        frames = torch.cat([passage.pixels, passage.ahead[:1]])
        times = [part / self.factor for part in range(1, self.factor)]
        made = []
        for place, frame in enumerate(passage.pixels):
            made.append(frame)
            if place + 1 < len(frames) and times:
                made += self._made(frame, frames[place + 1], times)
            else:
                made += [frame] * len(times)
        return torch.stack(made)

    def _made(self, a: torch.Tensor, b: torch.Tensor, times: Sequence[float]) -> list[torch.Tensor]:
        """Return the pictures at ``times``, from 0 (``a``) to 1 (``b``)."""
        import torch

        from zs2kit.between import between, motion_of
        from zs2kit.scan import to_images

        if self._network is not None:
            return [self._network.between(a, b, time) for time in times]
        first, second = to_images(torch.stack([a, b]))
        motion = motion_of(first, second, (a.shape[1], a.shape[2]))
        return [between(a, b, motion, time) for time in times]
