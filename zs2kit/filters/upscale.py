"""Upscale: enlarges pictures with a network that was made for it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from zs2kit.carry import Carry
from zs2kit.clip import Clip
from zs2kit.editing import Edit
from zs2kit.errors import UsageError
from zs2kit.farm import FarmEdit
from zs2kit.filters.base import Filter, Passage
from zs2kit.filters.filtered import unfiltered
from zs2kit.motion import settle
from zs2kit.networks.enlarging import Enlarging, file_of
from zs2kit.plugins import name_of
from zs2kit.scan import to_images
from zs2kit.settings import LARGEST, MODEL, option


@dataclass(eq=False)
class Enlarge(Filter):
    """The base of filters that enlarge a model's pictures before these get the result's size."""

    model_size = True

    factor: float = option(
        1.0,
        "How many times as large as the clip the result is. After an edit, leave it at 1: the model's "
        "pictures are enlarged, and then resized to the clip's size.",
        minimum=1,
        maximum=16,
    )

    def size(self, height: int, width: int) -> tuple[int, int]:
        """See `Filter`."""
        return round(height * self.factor), round(width * self.factor)

    def check(self, clip: Clip) -> None:
        """Raise `UsageError` if the result is larger than any file can hold."""
        height, width = self.size(clip.height, clip.width)
        if max(height, width) > LARGEST:
            raise UsageError(
                f"{clip.width}x{clip.height} times {self.factor:g} is {width}x{height}, but no side may have "
                f"more than {LARGEST} pixels",
                f"use a smaller `{name_of(self)}.factor`",
            )

    def prepare(self, clip: Clip) -> None:
        """Raise `UsageError` for a factor of 1 without an edit, which would change nothing."""
        if self.factor == 1 and not isinstance(unfiltered(clip), Edit | FarmEdit):
            name = name_of(self)
            raise UsageError(
                f"filter '{name}' would leave the clip at the size that it has",
                f"say how much larger it should be, such as `{name}.factor=2`",
            )


@dataclass(eq=False)
class Upscale(Enlarge):
    """Enlarges pictures with a network that was made for it, which keeps edges sharp.

    After an edit, the network gets the pictures as the model drew them: if a clip of 1080 lines is drawn at
    512, the network enlarges the pictures to more than 1080 lines, and then they are made smaller. The
    bundled models bring a network along. For other models and clips, name one that spandrel knows, such as
    Real-ESRGAN, SwinIR, HAT or SPAN. This needs the extra `upscale`: `pip install 'zs2kit[upscale]'`.
    """

    model: str | None = option(
        None,
        "A network that enlarges pictures: a file (.safetensors, or one of PyTorch's that has nothing but "
        "weights), a folder with one, or a name on the hub.",
        shown="the edit's model's own",
        kind=MODEL,
    )

    def check(self, clip: Clip) -> None:
        """See `Filter`."""
        super().check(clip)
        if self.model is not None:
            file_of(self.model, f"{name_of(self)}.model")

    def prepare(self, clip: Clip) -> None:
        """See `Filter`."""
        super().prepare(clip)
        edited, name = unfiltered(clip), name_of(self)
        self._settles = False  # whether its pictures are averaged, as an edit's own enlarged ones are
        if self.model is not None:
            self._network = Enlarging.load(self.model, self.device, self.dtype, f"{name}.model")
        elif isinstance(edited, Edit) and edited.scan.model.enlarger is not None:
            self._network = edited.scan.model.enlarger
            self._settles = bool(edited.scan.settings.flow_momentum)
        else:
            what = "this clip is not an edit"
            if isinstance(edited, Edit):
                what = f"{edited.scan.model.name} brings no enlarging network along"
            elif isinstance(edited, FarmEdit):
                what = "the model's own one is on the farm"
            raise UsageError(
                f"filter '{name}' has no network: {what}",
                f"name one: `{name}.model`, such as a Real-ESRGAN in a .safetensors file",
            )

    def run(self, passage: Passage, carry: Carry) -> torch.Tensor:
        """See `Filter`."""
        made = torch.stack([self._network(picture) for picture in passage.pixels])
        if self._settles and passage.sources is not None:
            made = settle(made, to_images(passage.sources[: len(made)]), carry)
        return made
