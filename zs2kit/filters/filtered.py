"""Filtered clips: a clip's frames on their way through a filter."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from itertools import chain, islice
from time import perf_counter
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from zs2kit import plugins
from zs2kit.carry import Carry, within
from zs2kit.clip import Anew, Clip, Frame, resized
from zs2kit.editing import Edit
from zs2kit.encoding import Encoding
from zs2kit.errors import PluginError, UsageError, Zs2Error, first_line, is_out_of_memory, notify
from zs2kit.filters.base import Filter, Passage, declared
from zs2kit.io.decoding import frame_ticks
from zs2kit.io.reading import described, opened
from zs2kit.journal import Resumable
from zs2kit.model import Model
from zs2kit.networks.loading import device_of, dtype_of
from zs2kit.scan import fitted
from zs2kit.settings import Cuts, Settings
from zs2kit.shots import shots

T = TypeVar("T", bound=Clip)


class _State(NamedTuple):
    """What the next frames must know about those before; the journal saves it as one `Carry`."""

    taken: int  # frames of the clip
    waiting: list[Frame]  # those that are taken but not filtered
    carry: Carry  # the filter's


class Filtered(Clip):
    """A clip whose frames go through ``filter`` while it is iterated over, a few at a time.

    Like `Edit`, it can be resumed between any two chunks. ``clip`` is what is filtered. Size, rate, time base
    and number of frames are those that the filter declares; everything else is the clip's.

    cuts: where the clip cuts to another shot, as in `Settings.cuts`; leave it out after an edit, whose cuts
    are known. device, dtype: where the filter's networks compute, and in which precision, as for
    `Model.load`; by default, those of the edit or of the filter before, if there is one.
    """

    def __init__(
        self,
        clip: Clip | Any,
        filter: Filter,
        *,
        cuts: Cuts = "auto",
        device: str | None = None,
        dtype: str | None = None,
    ) -> None:
        plugins.check(filter, Filter)
        self.clip = clip = opened(clip)
        self._cuts = Settings(cuts=cuts).cuts
        if cuts != "auto" and isinstance(clip, Resumable):
            raise UsageError("the shots of an edited or filtered clip are known", "leave `cuts` out")
        self.filter = dataclasses.replace(filter)  # type: ignore[type-var]
        self.filter._called = filter._called
        self.filter.device, self.filter.dtype = _machine(clip, device, dtype)
        facts = vars(declared(clip, [self.filter]))
        super().__init__(**{each.name: facts[each.name] for each in dataclasses.fields(Clip) if each.init})
        self.frames = self
        self._take(unfitted(clip) if self.filter.model_size else clip)
        self._fitted = True  # whether pictures get the result's size here, not from a filter that comes later
        self._told = False  # whether a notice was sent about what a mask keeps
        self.filter.prepare(self._input)

    def _take(self, clip: Clip) -> None:
        """Take the frames from ``clip``."""
        self._input = clip
        self._work = clip if isinstance(clip, Resumable) else None
        self._traced = all(each.per_frame == 1 for each in filters_of(clip))
        self._index = 0
        self._state = _State(0, [], Carry())

    def unfitted(self) -> Clip:
        """Return this clip with pictures of the size that the edit's model draws, if there was an edit.

        After a filter with `model_size`, they have the result's size already.
        """
        if self.filter.model_size:
            return self
        other = copy(self)
        other._take(unfitted(self._input))
        clip = other._input
        other.height, other.width = self.filter.size(clip.height, clip.width)
        other.sample_aspect_ratio, other.encoding = clip.sample_aspect_ratio, clip.encoding
        other.frames, other._fitted = other, False
        return other

    @property
    def chunk_size(self) -> int | None:
        """How many frames of an edit are drawn at once; None if that isn't known, or nothing is drawn."""
        return None if self._work is None else self._work.chunk_size

    @chunk_size.setter
    def chunk_size(self, size: int | None) -> None:
        if self._work is not None:
            self._work.chunk_size = size

    @property
    def index(self) -> int:
        """How many frames are made; within a chunk, some of them may not have been returned yet."""
        return self._index

    @property
    def steps(self) -> int:
        """How many denoising steps the edit's next frames have taken; 0 between two chunks."""
        return 0 if self._work is None else self._work.steps

    @property
    def carry(self) -> Carry:
        """What the next frames must know."""
        state, work = self._state, self._work
        return Carry(
            {
                "taken": torch.tensor(state.taken),
                **_packed(state.waiting),
                **{f"filter/{name}": tensor.cpu() for name, tensor in state.carry.items()},
                **{f"clip/{name}": tensor for name, tensor in (work.carry.items() if work else ())},
            }
        )

    def __iter__(self) -> Iterator[Frame]:
        return self.frames_from(0)

    def frames_from(
        self, index: int, carry: Carry | None = None, between: Callable[[], object] | None = None
    ) -> Iterator[Frame]:
        """Return the frames from ``index`` on.

        carry: what they must know about those before; None at the start. between: as for `Edit.frames_from`.
        """
        carry = Carry() if carry is None else carry
        taken = int(carry["taken"]) if "taken" in carry else 0
        self._index = index
        self._state = _State(taken, _unpacked(within(carry, "waiting/")), within(carry, "filter/"))
        if self._work is not None:
            return self._frames(self._work.frames_from(taken, within(carry, "clip/"), between))
        return self._frames(islice(shots_of(self._input, self._cuts), taken, None))

    def stop(self) -> None:
        """Have the edit end, as `Edit.stop` does."""
        if self._work is not None:
            self._work.stop()

    def describe(self) -> dict[str, Any] | None:
        """Return all that the frames depend on, for JSON; None if there is no source file to fingerprint."""
        about = self._work.describe() if self._work else described(self._input)
        if about is None:
            return None
        if self._work is None:
            cuts = self._cuts if self._cuts == "auto" else [float(time) for time in self._cuts]
            machine = {"device": self.filter.device.type, "dtype": str(self.filter.dtype)}
            about |= {"cuts": cuts, **machine}
        before = about.pop("filters", {})
        taken = [plugins.parted(each)[1] for each in before]
        kind = plugins.kind_of(self.filter)
        name = plugins.numbered(plugins.name_of(self.filter), taken)  # a script may use one twice
        used = kind if name == kind else f"{kind}:{name}"
        return {**about, "filters": {**before, used: plugins.described(self.filter)}}

    def _frames(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        """Yield what becomes of the ``frames`` that the clip still has, and of those that are waiting."""
        made, ended = self._index, False
        while self._state.waiting or not ended:
            taken, waiting, carry = self._state
            # First, take all frames that the edit drew together: it can only be resumed between two chunks.
            between = self._work is None or self._work.index == taken
            count = self._ready(waiting, ended) if between else 0
            pictures: Sequence[torch.Tensor] = ()
            if count:
                carry = Carry() if waiting[0].cut else Carry(carry)
                pictures = list(self._run(waiting, count, taken - len(waiting), carry))
                given, waiting = waiting[: count + 1], waiting[count:]
            elif (frame := next(frames, None)) is not None:
                taken, waiting = taken + 1, [*waiting, frame]
            else:
                ended = True
            self._state = _State(taken, waiting, carry)
            self._index = made + len(pictures) + (self._work.index - taken if self._work else 0)
            if count:
                for frame in self._timed(given, pictures):
                    made += 1
                    yield frame

    def _ready(self, waiting: Sequence[Frame], ended: bool) -> int:
        """Return how many of the frames that are ``waiting`` can be filtered together now."""
        shot, size = _shot(waiting), self.filter.chunk_size
        if shot < len(waiting) or ended:
            return min(shot, size)
        needed = max(self.filter.ahead, self.filter.per_frame > 1)  # or one, which tells the time
        return size if shot >= size + needed else 0

    @torch.no_grad()
    def _run(self, waiting: Sequence[Frame], count: int, index: int, carry: Carry) -> torch.Tensor:
        """Return what the filter makes of the first ``count`` frames that are ``waiting``."""
        filter, name = self.filter, plugins.name_of(self.filter)
        seen = waiting[: min(_shot(waiting), count + filter.ahead)]
        pixels = torch.stack([_pixels(frame, self._input.encoding) for frame in seen])
        sources = [_pixels(each.source) for each in seen if each.source and self._traced]
        passage = Passage(
            index,
            pixels[:count],
            pixels[count:],
            torch.stack(sources) if len(sources) == len(seen) else None,
        )
        try:
            made = filter.run(passage, carry)
        except Exception as error:  # a third party's code may raise anything
            if isinstance(error, Zs2Error) or is_out_of_memory(error):
                raise
            why = f"{type(error).__name__}: {first_line(error)}"
            raise PluginError(f"filter '{name}' failed in run(): {why}") from error
        shape = (count * filter.per_frame, 3)
        if not isinstance(made, torch.Tensor) or made.ndim != 4 or made.shape[:2] != shape:
            told = f"a tensor {tuple(made.shape)}" if isinstance(made, torch.Tensor) else repr(made)
            raise PluginError(
                f"filter '{name}' returned {told:.80} from run(), not a tensor ({shape[0]}, 3, height, width)"
            )
        if not made.isfinite().all():
            raise PluginError(f"filter '{name}' returned numbers that are not finite at frame {index}")
        return made

    def _timed(self, frames: Sequence[Frame], pictures: Sequence[torch.Tensor]) -> Iterator[Frame]:
        """Yield the ``pictures`` that were made from ``frames``, each frame's evenly spread over its time.

        ``frames`` has one frame more, which tells how long the last one lasts, except at the end of the clip.
        """
        times, size = self.filter.per_frame, (self.height, self.width)
        for place, picture in enumerate(pictures):
            which, part = divmod(place, times)
            frame, after = frames[which], frames[which + 1 : which + 2]
            new = frame
            if times > 1:  # ticks become shorter, by as much as the frames do
                lasts = after[0].pts - frame.pts if after else frame.duration or frame_ticks(self._input)
                new = frame._replace(pts=frame.pts * times + part * lasts, duration=lasts)
            if part:
                new = new._replace(cut=False, source=None, keep=None)
            # What a mask keeps is put back when pictures get the source's size: by an enlarger
            keep, enlarges = new.keep, self.filter.model_size
            stays = keep is not None and (not self._fitted or (enlarges and keep.shape == size))
            if frame.keep is not None and not stays and not self._told:
                self._told = True
                notify(
                    "mask-filtered",
                    f"what the mask keeps is no longer the source's own after filter "
                    f"'{plugins.name_of(self.filter)}'",
                )
            shown = picture.clamp(0, 1).permute(1, 2, 0).float().cpu().numpy()
            made = fitted(shown, new._replace(keep=keep if enlarges else None), size, self.encoding)
            yield made._replace(keep=keep if stays else None)


def shots_of(clip: Clip, cuts: Cuts = "auto") -> Iterator[Frame]:
    """Yield the frames of a clip, each marked with whether a shot starts there; find the cuts if need be."""
    frames = iter(clip)
    first = next(frames, None)
    if first is None:
        return iter(())
    if first.cut is not None and cuts == "auto":
        return chain([first], frames)
    return (frame for _, frame in shots(clip.with_frames(chain([first], frames)), cuts))


def unfitted(clip: Clip) -> Clip:
    """Return an edit, filtered or not, with pictures of the model's size; any other clip stays as it is."""
    other: Clip = clip.unfitted() if hasattr(clip, "unfitted") else clip
    return other


def through(
    clip: T,
    filters: Sequence[Filter],
    *,
    cuts: Cuts = "auto",
    device: str | None = None,
    dtype: str | None = None,
) -> T | Filtered:
    """Return ``clip`` after ``filters``, in this order; the other arguments are those of `Filtered`."""
    made: T | Filtered = clip
    for each in filters:
        made = each(made, cuts=cuts, device=device, dtype=dtype)
        cuts = "auto"  # the first filter has marked the frames
    return made


def unfiltered(clip: Clip) -> Clip:
    """Return what a clip was filtered from, or the clip itself if it is not filtered."""
    return unfiltered(clip.clip) if isinstance(clip, Filtered) else clip


def filters_of(clip: Clip) -> list[Filter]:
    """Return the filters that a clip goes through, in order; none if it is not filtered."""
    return [*filters_of(clip.clip), clip.filter] if isinstance(clip, Filtered) else []


def _machine(clip: Clip, device: str | None, dtype: str | None) -> tuple[torch.device, torch.dtype]:
    """Return where a filter of ``clip`` computes, and in which precision."""
    before: Filter | Model | None = None
    if isinstance(clip, Filtered):
        before = clip.filter
    elif isinstance(clip, Edit):
        before = clip.scan.model
    chosen = before.device if before and device is None else device_of(device)
    if before and dtype is None and chosen.type == before.device.type:
        return chosen, before.dtype
    return chosen, dtype_of(dtype, chosen)


def filter_seconds(made: Clip, edited: Edit, frames: Sequence[Frame]) -> float:
    """Return the seconds that the filters of ``made`` take for a frame of an edit, measured on ``frames``."""
    if made is edited or not frames:
        return 0.0
    few = [frame._replace(cut=place == 0, source=frame) for place, frame in enumerate(frames)]
    small = [each._replace(image=resized(each.image, edited.fit.scaled), stored=None) for each in few]

    def with_these(clip: Clip) -> Clip:
        if not isinstance(clip, Filtered):
            return _Tried(edited, few, small)
        other = copy(clip)
        other.clip = with_these(clip.clip)
        other._take(unfitted(other.clip) if clip.filter.model_size else other.clip)
        return other

    clip = with_these(made)
    next(iter(clip))  # the first time takes longer
    began = perf_counter()
    for _ in clip:
        pass
    return (perf_counter() - began) / len(few)


class _Tried(Clip):
    """Frames of a source in place of those of an edit, to measure how long filters take."""

    def __init__(self, edited: Clip, frames: list[Frame], unfitted: list[Frame]) -> None:
        facts = {each.name: getattr(edited, each.name) for each in dataclasses.fields(Clip) if each.init}
        super().__init__(**{**facts, "frames": frames, "frame_count": len(frames)})
        self._unfitted = unfitted

    def unfitted(self) -> Clip:
        """The frames as a model would draw them."""
        height, width = self._unfitted[0].image.shape[:2]
        return self.with_frames(self._unfitted, height=height, width=width, encoding=Encoding())


def source_frames(result: Clip, filters: Sequence[Filter], source: Clip | None) -> Clip:
    """Return the frames of a filtered ``result`` that ``source`` has too, at its size, to compare the two."""
    times = math.prod(each.per_frame for each in filters)
    size = (result.height, result.width) if source is None else (source.height, source.width)

    def frames() -> Iterator[Frame]:
        for frame in islice(result, 0, None, times):
            yield frame._replace(image=resized(frame.image, size), stored=None)

    return result.with_frames(Anew(frames), height=size[0], width=size[1], rate=result.rate / times)


def _shot(frames: Sequence[Frame]) -> int:
    """Return how many of the ``frames`` belong to the shot of the first one."""
    return next((place for place, frame in enumerate(frames[1:], 1) if frame.cut), len(frames))


def _pixels(frame: Frame, encoding: Encoding | None = None) -> torch.Tensor:
    """Return a frame as a display shows it: (3, height, width), from 0 to 1."""
    if encoding is None or encoding.is_plain or frame.stored is None:
        shown = frame.image.astype(np.float32) / np.float32(255)
    else:
        shown = encoding.shown(frame.stored)
    return torch.from_numpy(shown).permute(2, 0, 1).contiguous()


def _packed(frames: Sequence[Frame]) -> Carry:
    """Return frames as named tensors."""
    packed = Carry()
    for place, frame in enumerate(frames):
        for kind, each in {"frame": frame, "source": frame.source}.items():
            if each is not None:
                key = f"waiting/{place:03}/{kind}"
                cut = -1 if each.cut is None else int(each.cut)
                packed[f"{key}/times"] = torch.tensor([each.pts, each.duration, cut])
                for name in ("image", "stored", "keep"):
                    if (array := getattr(each, name)) is not None:
                        packed[f"{key}/{name}"] = torch.from_numpy(np.array(array))
    return packed


def _unpacked(packed: Carry) -> list[Frame]:
    """Return the frames that `_packed` turned into tensors, whose names lack its prefix here."""

    def frame(key: str) -> Frame | None:
        times = packed.get(f"{key}/times")
        if times is None:
            return None
        image, stored, keep = (
            None if tensor is None else tensor.numpy()
            for tensor in (packed.get(f"{key}/{name}") for name in ("image", "stored", "keep"))
        )
        assert image is not None
        pts, duration, cut = times.tolist()
        return Frame(image, pts, duration, stored, None if cut < 0 else bool(cut), keep=keep)

    places = sorted({name.partition("/")[0] for name in packed})
    frames = [(frame(f"{place}/frame"), frame(f"{place}/source")) for place in places]
    return [each._replace(source=source) for each, source in frames if each is not None]
