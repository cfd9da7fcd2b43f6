"""Mask: only a region is redrawn, and everything else stays as it is in the source."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from zs2kit import Plugin, hookimpl, notify, option
from zs2kit.companion import Companion
from zs2kit.errors import ModelError, UsageError
from zs2kit.plugins import name_of
from zs2kit.settings import FILE, MODEL

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from zs2kit.clip import Chunk, Clip
    from zs2kit.model import Model

    Regions = Callable[[Chunk], list[NDArray[np.bool_]]]  # each (source height, source width)

LOOK = 8  # frames of the masks that are looked at beforehand


@dataclass(eq=False)
class Mask(Plugin):
    """Redraws a region of each frame and keeps everything outside it as it is in the source, bit for bit.

    The region is what is white in your own clip of masks, or what a segmentation model finds. Two such models
    come with zs2kit, one for puppets and one for people; a model for transformers finds what its labels name.
    The region grows a little, since a new figure seldom has the old one's outline, and its edge is blended on
    the inside. A checkpoint for inpainting sees what is around the region, so what it draws fits in better.
    """

    follows_source = None  # what moves within the region is up to others

    clip: str | None = option(
        None,
        "A video of masks, of the source's size and length, or one picture for all of its frames: white is "
        "redrawn, black stays.",
        kind=FILE,
    )
    model: str = option(
        "auto",
        "What finds the region: figure is the checkpoint's own model, person finds people and needs no "
        "download, and any other is the folder or hub name of a segmentation model for transformers. auto "
        "means person; if the checkpoint has a model of its own, it means figure, unless the clip's first "
        "frames show people.",
        kind=MODEL,
    )
    label: str | None = option(None, "Which of that model's labels is the region, such as person.")
    invert: bool = option(False, "Keep the region, and redraw the rest.")
    grow: float = option(
        5.0, "How much the region grows, in percent of the frame's shorter side.", minimum=0, maximum=100
    )
    feather: float = option(
        2.0,
        "How far inside the region the source fades out, in percent of the frame's shorter side.",
        minimum=0,
        maximum=100,
    )

    @hookimpl
    def setup(self, model: Model, clip: Clip) -> None:
        kind = self.model
        if self.clip and kind != "auto":
            raise UsageError("`mask.clip` and `mask.model` can't be used together", "use one of them")
        if self.label and kind in ("auto", "figure", "person"):
            raise UsageError("`mask.label` is a label of `mask.model`", "set both")
        self._without: set[int] = set()  # frames in which there is nothing to draw
        self._people_on: str | None = None  # the device that finds people
        self._masks = Companion(self.clip, clip) if self.clip else None
        if self._masks:
            _check_light(self._masks)
            self._regions = _drawn(self._masks)
            return
        if kind == "auto":
            kind = _choose(model, clip)
        if kind == "person":
            self._people_on, self._rate, self._told_small = str(model.device), float(clip.rate), False
            self._regions = lambda chunk: self._people
        elif kind == "figure":
            self._regions = _figures(model)
        else:
            self._regions = _segmented(kind, self.label, model)

    @hookimpl
    def prepare(self, whole: Chunk, carry: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor] | None:
        """Find everybody's silhouette, since whom the frames before show is in the carry."""
        if not self._people_on:
            return None
        from zs2kit.people import Tracker, silhouette, tell_small

        assert whole.frames is not None
        name = f"{name_of(self)}.people"
        tracker = Tracker(self._rate, state=carry.get(name), device=self._people_on)
        self._people: list[NDArray[np.bool_]] = []
        for index, frame in zip(whole.indices, whole.frames, strict=True):
            people = tracker.follow(frame)
            self._told_small = self._told_small or tell_small(name_of(self), people, whole, index)
            self._people.append(silhouette(frame, people, self._people_on) > 0.5)
        return {name: tracker.state}

    @hookimpl
    def keep(self, chunk: Chunk) -> NDArray[np.float32]:
        assert chunk.fit is not None
        side = min(chunk.fit.source) / 100
        kept = []
        for index, region in zip(chunk.indices, self._regions(chunk), strict=True):
            if self.invert:
                region = ~region
            if not region.any():
                self._without.add(index)
            kept.append(outside(region, round(self.grow * side), round(self.feather * side)))
        return np.stack(kept)

    @hookimpl
    def finish(self, frames: int) -> None:
        if self._masks:
            self._masks.finish(frames)
        if self._without:
            notify(
                "nothing-to-draw",
                f"mask: {len(self._without)} of {frames} frames stay as they are, since nothing in them is "
                f"to be redrawn (the first is frame {min(self._without)})",
            )


def outside(region: NDArray[np.bool_], grow: int, feather: int) -> NDArray[np.float32]:
    """Return what stays around ``region`` (height, width): 1 outside of it, 0 inside, fading within.

    The region first grows by ``grow`` pixels; then 1 fades to 0 over ``feather`` pixels inward of its edge,
    so that all outside of the grown region is exactly 1.
    """
    if grow and region.any():
        to_region = cv2.distanceTransform((~region).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        region = to_region <= grow
    if region.all():  # no edge to fade from
        return np.zeros(region.shape, np.float32)
    inward = cv2.distanceTransform(region.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.clip(1 - inward / (feather + 1), 0, 1).astype(np.float32)


def _drawn(masks: Companion) -> Regions:
    """What is lighter than half in the user's masks, since codecs leave neither black black nor white white.

    In pictures with a palette, as datasets and segmenters write them, all that isn't black: colours stand for
    classes there.
    """

    def regions(chunk: Chunk) -> list[NDArray[np.bool_]]:
        images = masks.frames_of(chunk)
        if masks.has_palette:
            return [image.max(axis=2) > 0 for image in images]
        return [image.mean(axis=2) > 127.5 for image in images]

    return regions


def _check_light(masks: Companion) -> None:
    """See whether masks are white on black, as they are read; and not numbers of classes, or in the alpha.

    Raises `UsageError` if they are not; if they are too dark here and there, sends a notice.
    """
    if masks.has_palette:
        return
    if masks.encoding.alpha:
        raise UsageError(
            f"`mask.clip`: parts of {masks.path} are transparent, but its colours say what is redrawn",
            "save it without transparency, white where the source is to be redrawn",
        )
    pictures = [frame.image if frame.stored is None else frame.stored for frame in masks.first(LOOK)]
    largest = 1 if masks.encoding.floating else int(np.iinfo(pictures[0].dtype).max)
    lightest = max(each.mean(axis=2).max() for each in pictures)
    if not 0 < lightest <= largest / 2:
        return
    what = f"the lightest pixel of {masks.path} is {lightest:.3g} of {largest}"
    if lightest < largest / 16:
        raise UsageError(
            f"`mask.clip`: {what}, so nothing would be redrawn", "make the region to redraw white"
        )
    notify(
        "dark-masks",
        f"mask: {what} in the first pictures; what isn't lighter than half stays",
        "make the region to redraw white",
    )


def _choose(model: Model, clip: Clip) -> str:
    from zs2kit.people import shows_people

    if model.bundled("estimator") is None:
        return "person"
    if not shows_people(clip, str(model.device)):
        return "figure"
    notify(
        "people-found",
        "mask: the clip shows people, so mask.model is person",
        "set it to figure if that is wrong",
    )
    return "person"


def _segmented(name: str, label: str | None, model: Model) -> Regions:
    """What a model of transformers' finds, be it of the semantic, the instance or the panoptic kind."""
    import transformers
    from PIL import Image

    from zs2kit.networks.hub import folder_with
    from zs2kit.quiet import quiet

    folder = folder_with(name, ["*.json", "model.safetensors"], "mask.model")
    try:
        with quiet():
            segment: Any = transformers.pipeline(
                "image-segmentation",
                model=str(folder),
                device=model.device,
                model_kwargs={"use_safetensors": True},
            )
    except Exception as error:  # loaders raise anything for a model of another kind
        raise ModelError(
            f"`mask.model`: {name} is not a segmentation model for transformers",
            "name one, such as nvidia/segformer-b0-finetuned-ade-512-512",
        ) from error
    labels = list(segment.model.config.id2label.values())
    if label not in labels:
        wrong = f"has no label '{label}'" if label else "needs `mask.label`"
        raise UsageError(f"`mask.model`: {name} {wrong}", f"choose from {', '.join(labels)}")

    def regions(chunk: Chunk) -> list[NDArray[np.bool_]]:
        assert chunk.frames is not None
        found = []
        for image in chunk.frames:
            region = np.zeros(image.shape[:2], bool)
            with quiet():
                parts = segment(Image.fromarray(image))
            for part in parts:
                if part["label"] == label:
                    region |= np.asarray(part["mask"]) > 0
            found.append(region)
        return found

    return regions


def _figures(model: Model) -> Regions:
    """The figures that the bundled estimator finds."""
    folder = model.bundled("estimator")
    if folder is None:
        raise ModelError(
            f"mask: {model.name} has no segmentation model of its own",
            "use `mask.model=person`, name one for transformers with `mask.model` and `mask.label`, or give "
            "your own masks with `mask.clip`",
        )
    from diffusers import UNet2DModel

    from zs2kit.puppets.estimator import estimate

    network = model.load_network(UNet2DModel, folder).float()  # small, and resizing needs float32

    def regions(chunk: Chunk) -> list[NDArray[np.bool_]]:
        assert chunk.fit is not None
        _, masks = estimate(network, chunk.images)
        return [chunk.fit.undo(mask) > 0.5 for mask in masks]

    return regions
