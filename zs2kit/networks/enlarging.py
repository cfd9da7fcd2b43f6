"""Enlarging pictures by a network: the bundled one, or any that spandrel knows, a tile at a time."""

from __future__ import annotations

import math
import re
from copy import deepcopy
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import torch

from zs2kit.errors import ModelError, is_out_of_memory
from zs2kit.memory import free, peak_of
from zs2kit.networks.enlarger import Enlarger
from zs2kit.networks.hub import ON_THE_HUB, check_whole, folder_with
from zs2kit.networks.loading import loading, unpickling

MARGIN = 32  # pixels around a tile that are enlarged with it and cut off, so that its edges don't show
TRIED = 128  # pixels: the sides of the tile by which memory is measured
STEP = 64  # pixels: sides of tiles are multiples of it, which suits networks that work in windows
SHARE = 0.8  # the share of the free memory that is used

_FILES = (".safetensors", ".pth", ".pt", ".ckpt")  # that spandrel reads, without running what is in them


class Enlarging:
    """A network that makes pictures ``scale`` times as large.

    network: takes (1, 3, height, width) in [0, 1]; it has a dtype and a device. name: for messages. whole:
    whether pictures can't be cut into tiles.
    """

    def __init__(self, network: Any, name: str, scale: int, *, whole: bool = False) -> None:
        self.network = network
        self.name = name
        self.scale = scale
        self.side: int | None = None  # of a tile, in pixels; None: not known yet
        self._whole = whole

    @classmethod
    def bundled(cls, folder: Path, device: torch.device, dtype: torch.dtype) -> Enlarging:
        """Load the network that comes with a bundled model, from ``folder``."""
        with loading(folder):
            network = Enlarger.from_pretrained(folder, use_safetensors=True, dtype=dtype)
            return cls(network.to(device).eval(), str(folder), network.config.scale)

    @classmethod
    def load(cls, name: str, device: torch.device, dtype: torch.dtype, option: str) -> Enlarging:
        """Load a network by spandrel: a file, a folder with one, or a name on the hub.

        option: what names it, for messages. In half precision it computes only if it was made for that.
        Raises `ModelError` if it can't be loaded, or if it enlarges nothing.
        """
        file = file_of(name, option)
        import spandrel

        with loading(name):
            try:
                with unpickling(file, option):
                    found = spandrel.ModelLoader().load_from_file(file)
            except spandrel.UnsupportedModelError as error:
                raise ModelError(
                    f"{name}: spandrel knows no network with these weights",
                    "name one that enlarges pictures, such as a Real-ESRGAN",
                ) from error
            channels = found.input_channels, found.output_channels
            if not isinstance(found, spandrel.ImageModelDescriptor) or found.scale < 2 or channels != (3, 3):
                raise ModelError(
                    f"{name}: this {found.architecture.name} doesn't enlarge pictures in colour",
                    "name a network that does, such as a Real-ESRGAN",
                )
            if dtype == torch.float16 and not found.supports_half:
                dtype = torch.bfloat16
            if dtype == torch.bfloat16 and not found.supports_bfloat16:
                dtype = torch.float32
            found.model.register_forward_hook(_without_infinity)
            whole = found.tiling == spandrel.ModelTiling.INTERNAL
            return cls(found.to(device, dtype).eval(), name, found.scale, whole=whole)

    @torch.no_grad()
    def __call__(self, picture: torch.Tensor) -> torch.Tensor:
        """Picture (3, height, width) in [0, 1] -> the same, ``scale`` times as large, in float32 on the CPU.

        It is enlarged in one piece, or in tiles that there is memory for. Raises `ModelError` if numbers
        overflow even in float32.
        """
        while True:
            try:
                return self._tiled(picture)
            except Exception as error:
                if not is_out_of_memory(error) or self._whole or self._smaller(picture) is None:
                    raise
            if self.network.device.type == "cuda":
                torch.cuda.empty_cache()

    def _tiled(self, picture: torch.Tensor) -> torch.Tensor:
        height, width = picture.shape[1:]
        side, scale = self._fitting(height, width), self.scale
        made = torch.empty(3, height * scale, width * scale)
        for top, left in product(range(0, height, side), range(0, width, side)):
            rows, seen_rows = _span(top, side, height)
            columns, seen_columns = _span(left, side, width)
            tile = self._enlarged(picture[:, seen_rows, seen_columns][None])[0]
            inner = (
                slice((each.start - seen.start) * scale, (each.stop - seen.start) * scale)
                for each, seen in ((rows, seen_rows), (columns, seen_columns))
            )
            into = (slice(each.start * scale, each.stop * scale) for each in (rows, columns))
            made[:, *into] = tile[:, *inner]
        return made

    def _enlarged(self, pixels: torch.Tensor) -> torch.Tensor:
        for network in (self.network, self._exact):
            made: torch.Tensor = network(pixels.to(network.device, network.dtype)).float().cpu()
            if made.isfinite().all():
                return made.clamp(0, 1)
        raise ModelError(f"{self.name} overflows, even in float32", "use another network")

    @cached_property
    def _exact(self) -> Any:
        """The network in float32, where numbers overflow in half precision."""
        return self.network if self.network.dtype == torch.float32 else deepcopy(self.network).float()

    def _fitting(self, height: int, width: int) -> int:
        """Return the side of the tiles that there is memory for, or of the picture if it fits whole."""
        longer = max(height, width)
        if self._whole or longer <= TRIED:
            return longer
        if self.side is None:
            device = self.network.device
            tried = torch.zeros(1, 3, TRIED, TRIED)
            self._enlarged(tried)  # the first time takes more
            peak = peak_of(lambda: self._enlarged(tried), device)
            self.side = longer
            if peak:
                pixels = SHARE * free(device) / (peak / TRIED**2)
                if pixels < height * width:
                    self.side = _multiple(math.isqrt(int(pixels)) - 2 * MARGIN)
        return self.side

    def _smaller(self, picture: torch.Tensor) -> int | None:
        """Halve the tiles, from now on, and return their side; None if they can't be smaller."""
        before = self.side or max(picture.shape[1:])
        self.side = _multiple(before // 2)
        return self.side if self.side < before else None


def _multiple(side: int) -> int:
    return max(STEP, side // STEP * STEP)


def _span(start: int, side: int, length: int) -> tuple[slice, slice]:
    """Return which pixels of ``length`` a tile is for, and which it sees."""
    stop = min(start + side, length)
    return slice(start, stop), slice(max(0, start - MARGIN), min(stop + MARGIN, length))


def _without_infinity(module: Any, given: Any, made: Any) -> Any:
    """Turn infinity into NaN, since spandrel would clip it to white."""
    return made.where(made.isfinite(), torch.nan) if isinstance(made, torch.Tensor) else made


def file_of(name: str, option: str) -> Path:
    """Return the file of weights called ``name``, or the one in the folder or repository of that name.

    option: as for `Enlarging.load`. Raises `ModelError` if there is none, or no spandrel to load it.
    """
    try:
        import spandrel  # noqa: F401
    except ImportError as error:
        raise ModelError(
            f"`{option}` needs spandrel, which isn't installed", "run: pip install 'zs2kit[upscale]'"
        ) from error
    path = Path(name)
    on_the_hub = re.fullmatch(rf"({ON_THE_HUB})(?:/(.+\.safetensors))?", name)
    if not path.exists() and on_the_hub:
        wanted = on_the_hub[2] or "*.safetensors"
        path = folder_with(on_the_hub[1], [wanted], option, inside=on_the_hub[2] or "")
        path = path / on_the_hub[2] if on_the_hub[2] else path
    if path.is_dir():
        files = [each for suffix in _FILES for each in sorted(path.glob(f"*{suffix}"))]
        safe = [each for each in files if each.suffix == ".safetensors"] or files
        if len(safe) != 1:
            told = f"{len(safe)} files of weights" if safe else "no file of weights"
            raise ModelError(f"`{option}`: {name} has {told}", "name one file")
        path = safe[0]
    if not path.is_file():
        raise ModelError(f"`{option}`: there is no file, folder or name on the hub '{name}'")
    if path.suffix.lower() not in _FILES:
        raise ModelError(f"`{option}`: {name} is not a file of weights", f"give one of {', '.join(_FILES)}")
    check_whole(path)
    return path
