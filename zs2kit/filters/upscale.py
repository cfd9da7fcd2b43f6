"""Upscale: pictures enlarged by a network that was made for it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from zs2kit.carry import Carry
from zs2kit.clip import Clip
from zs2kit.editing import Edit
from zs2kit.errors import UsageError
from zs2kit.filters.base import Filter, Passage
from zs2kit.networks.enlarging import Enlarging
from zs2kit.plugins import name_of
from zs2kit.settings import LARGEST, MODEL, option


@dataclass(eq=False)
class Upscale(Filter):
    """Enlarges pictures by a network that was made for it, which keeps edges sharp.

    After an edit it gets the pictures as the model has drawn them, so that a clip of 1080 lines that is drawn
    at 512 is enlarged by the network, and then only made smaller. The bundled models bring a network along.
    For other models and clips, name one that spandrel knows, such as Real-ESRGAN, SwinIR, HAT or SPAN. This
    needs the extra `upscale`: `pip install 'zs2kit[upscale]'`.
    """

    model_size = True

    factor: float = option(
        1.0,
        "How many times as large as the clip the result is. After an edit, 1 is right: the model's pictures "
        "are enlarged, and then brought to the clip's size.",
        minimum=1,
        maximum=16,
    )
    model: str | None = option(
        None,
        "A network that enlarges pictures: a file (.safetensors, or one of PyTorch's that has nothing but "
        "weights), a folder with one, or a name on the hub.",
        shown="the edit's model's own",
        kind=MODEL,
    )

    def size(self, height: int, width: int) -> tuple[int, int]:
        """See `Filter`."""
        return enlarged_size(self, height, width)

    def prepare(self, clip: Clip) -> None:
        """See `Filter`."""
        refuse_nothing_to_do(self, clip)
        edit = edit_of(clip)
        name = name_of(self)
        if self.model is not None:
            self._network = Enlarging.load(self.model, self.device, self.dtype, f"{name}.model")
        elif edit is not None and edit.scan.model.enlarger is not None:
            self._network = edit.scan.model.enlarger
        else:
            what = (
                f"{edit.scan.model.name} brings no network that enlarges" if edit else "this clip is no edit"
            )
            raise UsageError(
                f"filter '{name}' has no network: {what}",
                f"name one: `{name}.model`, such as a Real-ESRGAN in a .safetensors file",
            )

    def run(self, passage: Passage, carry: Carry) -> torch.Tensor:
        """See `Filter`."""
        return torch.stack([self._network(picture) for picture in passage.pixels])


def edit_of(clip: Clip) -> Edit | None:
    """Return the edit that a clip is, or was filtered from; None if there is none."""
    while not isinstance(clip, Edit) and isinstance(before := getattr(clip, "clip", None), Clip):
        clip = before
    return clip if isinstance(clip, Edit) else None


def enlarged_size(filter: Filter, height: int, width: int) -> tuple[int, int]:
    """Return (height, width), ``filter.factor`` times as large; raise `UsageError` if no file can hold it."""
    factor: float = filter.factor  # type: ignore[attr-defined]
    size = round(height * factor), round(width * factor)
    if max(size) > LARGEST:
        raise UsageError(
            f"{width}x{height} times {factor:g} is {size[1]}x{size[0]}, and {LARGEST} is the most",
            f"use a smaller `{name_of(filter)}.factor`",
        )
    return size


def refuse_nothing_to_do(filter: Filter, clip: Clip) -> None:
    """Raise `UsageError` for a clip that no model has drawn and that isn't to be larger."""
    if filter.factor == 1 and edit_of(clip) is None:  # type: ignore[attr-defined]
        name = name_of(filter)
        raise UsageError(
            f"filter '{name}' would bring the clip back to the size that it has",
            f"say how much larger it is to be: `{name}.factor=2`",
        )
