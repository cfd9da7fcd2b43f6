"""`edit` and `generate`, and the clip they return, whose frames are drawn while you iterate over it."""

from __future__ import annotations

import gc
import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from functools import partial
from itertools import accumulate, chain, groupby, islice
from operator import itemgetter
from pathlib import Path
from threading import Event
from typing import Any, TypeVar

import numpy as np
import torch
from diffusers import DiffusionPipeline
from pluggy import PluginManager

from zs2kit import plugins as plugins_
from zs2kit.ahead import ahead
from zs2kit.carry import Carry, HostCarry, Row, is_row
from zs2kit.clip import Anew, Chunk, Clip, Fit, Frame, numbered
from zs2kit.encoding import Encoding
from zs2kit.errors import (
    ModelError,
    Receiver,
    Stopped,
    UsageError,
    is_out_of_memory,
    notify,
    receiving,
)
from zs2kit.filling import spaced
from zs2kit.io.reading import described, opened
from zs2kit.io.seeking import FileFrames
from zs2kit.io.sequence import PictureFrames
from zs2kit.memory import free
from zs2kit.model import Model
from zs2kit.networks.loading import BUNDLED, half_of
from zs2kit.plugins import Plugin
from zs2kit.progress import Pace, Progress, Report
from zs2kit.scan import Broken, Drawn, Rehearsed, Scan, chunk_of, finished
from zs2kit.schedule import Step
from zs2kit.settings import Prompts, Settings, changed, takes_fields
from zs2kit.shots import shots

log = logging.getLogger(__name__)

MOST = 8  # frames at once by default; on a CPU, twice as many took only 6% less time
SHARE = 0.8  # the share of the free memory that is used
HELD = 40  # bytes of host memory for each pixel that the model draws, if a shot is drawn in rows

T = TypeVar("T")


@takes_fields(Settings)
def edit(
    clip: Clip | str | Path | Any,
    prompt: Prompts | None = None,
    *,
    plugins: Sequence[Plugin] | None = None,
    model: str | Path | Model | DiffusionPipeline | None = None,
    settings: Settings | None = None,
    progress: Report | None = None,
    notices: Receiver | None = None,
    **changes: Any,
) -> Edit:
    """Return ``clip`` edited: a clip with new pictures at the same times.

    The arguments are checked here. The frames are drawn while you iterate over the returned clip, a chunk at
    a time, so memory use doesn't grow with the length of the clip.

    clip: a `Clip`; the path of a clip, which is then read whole; a list, an array or a tensor of pictures,
    shown at 25 per second; a ``decord.VideoReader``; or a ``cv2.VideoCapture``.
    prompt: what to draw; None is the model's default prompt. Or several prompts, each by the position of the
    frame at which it starts, the first one at 0. A frame between two of these takes its first steps with the
    earlier prompt and the rest with the later one.
    plugins: instances, such as ``Pose(scale=0.8)``; they are copied, not changed. If none of them looks at
    the clip, ``Strength()`` is added, or ``Instruct()`` for a model that follows instructions, and a notice
    says so. With an empty list, the result is drawn from the text alone, in the clip's size and length.
    model: a `Model`, anything that `Model.load` takes, or a diffusers pipeline; None is the plugins' default
    model or the bundled one.
    settings: a `Settings`. Its fields may also be given here by name, which overrides those in ``settings``.
    progress: called with a `Progress` after every denoising step; an exception that it raises ends the edit.
    notices: called with a `Notice` for anything the user should know; None makes them Python warnings.

    Raises `UsageError` for a value that is not allowed, and `ModelError` or `PluginError` if a model or a
    plugin can't be loaded or doesn't fit.
    """
    if prompt is not None:
        changes = {"prompt": prompt, **changes}
    with receiving(notices):
        how = changed(settings or Settings(), changes)
        return _edit(opened(clip), plugins, model, how, progress, notices)


@takes_fields(Settings)
def generate(
    prompt: Prompts | None = None,
    *,
    frames: int = 48,
    rate: Fraction | float = 12,
    plugins: Sequence[Plugin] = (),
    model: str | Path | Model | DiffusionPipeline | None = None,
    settings: Settings | None = None,
    progress: Report | None = None,
    notices: Receiver | None = None,
    **changes: Any,
) -> Edit:
    """Return a clip made from text alone: ``frames`` frames at ``rate`` frames per second.

    The frames are drawn while you iterate over it. ``size`` is the (height, width) of the clip; all other
    arguments are as for `edit`. Plugins that look at a source can't be used.

    Raises what `edit` raises.
    """
    if prompt is not None:
        changes = {"prompt": prompt, **changes}
    asked = changed(settings or Settings(), changes)
    if not (isinstance(frames, int) and frames >= 1):
        raise UsageError(f"`frames` must be a whole number from 1 up, not {frames}")
    if not 1 / 1001 <= rate < math.inf:
        raise UsageError(f"`rate` must be at least 1/1001 frames per second, not {rate}")
    late = max(asked.prompts)
    if late >= frames:
        raise UsageError(
            f"the prompt at frame {late} comes after the end: the last of {frames} frames is {frames - 1}",
            "use an earlier frame, or more `frames`",
        )
    with receiving(notices):
        model = _loaded(model, plugins)
        height, width = asked.size or model.native_size
        black = np.broadcast_to(np.uint8(0), (height, width, 3))  # one byte, whatever the size
        rate = Fraction(rate).limit_denominator(1001)
        blank = Clip(
            Anew(partial(numbered, [black] * frames, (height, width))),
            width,
            height,
            rate,
            time_base=1 / rate,
            frame_count=frames,
            blank=True,
        )
        return _edit(blank, plugins, model, replace(asked, size=(height, width)), progress, notices)


def _edit(
    clip: Clip,
    plugins: Sequence[Plugin] | None,
    model: str | Path | Model | DiffusionPipeline | None,
    settings: Settings,
    progress: Report | None,
    notices: Receiver | None,
) -> Edit:
    for plugin in plugins or ():
        plugins_.check(plugin)
    hooks = plugins_.manager(plugins or ())
    _check_prompts(settings, hooks)  # before a model is loaded
    if clip.frame_count and (late := max(settings.prompts)) >= clip.frame_count:
        raise UsageError(
            f"the prompt at frame {late} comes after the end: the clip has {clip.frame_count} frames",
            "use an earlier frame",
        )
    if settings.every > 1 and clip.blank:
        raise UsageError(
            "`every` fills in frames along the motion of a clip, and there is no clip here", "leave it out"
        )
    if settings.every > 1 and clip.frame_count in (1, 2):
        few = "1 frame" if clip.frame_count == 1 else "2 frames"
        raise UsageError(f"`every`: a clip of {few} has no frame between two others", "leave it out")
    _tell_syntax(settings)
    model = _loaded(model, plugins or ())
    steps = settings.num_inference_steps or model.network.num_inference_steps
    by_default = _added(plugins, model, clip, steps)
    plugins = [*(plugins or ()), *by_default]
    if by_default:
        hooks = plugins_.manager(plugins)
        _check_prompts(settings, hooks)
    settings = settled(settings, model, blank=clip.blank)
    smallest = model.multiple
    if settings.size and min(settings.size) < smallest and not clip.blank:
        raise UsageError(f"`size` must be at least {smallest}x{smallest} for {model.name}")
    size = settings.size or model.native_size
    fit = Fit.into((clip.height, clip.width), size, model.multiple, clip.sample_aspect_ratio)
    used = {}
    for name, plugin in plugins_.named(plugins):
        kind = plugins_.kind_of(plugin)
        used[kind if name == kind else f"{kind}:{name}"] = plugins_.described(plugin)
    edit = Edit(clip, Scan(model, hooks, clip, settings), fit, used, progress, notices)
    for plugin in by_default:
        notify(
            "default-plugin",
            f"no plugin that follows the clip was chosen, so {plugins_.name_of(plugin)} is used",
            "`plugins=()` draws from the text alone",
        )
    return edit


# Prompt syntax of other programs -> what the notice says about it, and what to do instead
_SYNTAX = {
    r"<lora:[^>]+>": ("LoRAs in a prompt don't load", "give them with `loras`"),
    r"\([^()]+:-?\d*\.?\d+\)": ("weights of words have no effect", "say it in other words"),
    r"\(\([^()]+\)\)": ("parentheses don't stress words", "say it in other words"),
    r"\bBREAK\b": ("BREAK is read as a word", "leave it out"),
    r"\[[^\[\]|]*:[^\[\]|]*:\d*\.?\d+\]": ("a prompt doesn't change from step to step", "choose one"),
}


def _tell_syntax(settings: Settings) -> None:
    """Send a notice for each kind of other programs' syntax in the prompts, which is read as plain text."""
    texts = [*settings.prompts.values(), settings.negative_prompt]
    for pattern, (what, remedy) in _SYNTAX.items():
        found = next((match[0] for text in texts if (match := re.search(pattern, text))), None)
        if found:
            notify("prompt-syntax", f"'{found}' in a prompt is read as it stands: {what}", remedy)


def _check_prompts(settings: Settings, hooks: PluginManager) -> None:
    if len(settings.prompts) > 1 and hooks.hook.guidance.get_hookimpls():
        raise UsageError(
            "several prompts can't be used with a plugin that has its own guidance", "give one prompt"
        )


def _added(plugins: Sequence[Plugin] | None, model: Model, clip: Clip, steps: int) -> list[Plugin]:
    """Return the plugin to add if none of the chosen ones looks at the clip, so that it isn't ignored."""
    chosen = list(plugins or ())
    if clip.blank or (plugins is not None and not chosen) or any(map(_looks, chosen)):
        return []
    network = model.network
    if network.shows or (network.channels == 2 * model.latent_channels and not network.takes_maps):
        return [plugins_.build("instruct", {})]
    few = {"strength": "1"} if steps == 1 else {}  # by default it takes half of the steps: here, none
    return [plugins_.build("strength", few)]


def _looks(plugin: Plugin) -> bool:
    """Whether a plugin follows the clip, has a motion of its own, or keeps a part of the clip."""
    return plugin.follows_source is not None or hasattr(plugin, "keep")


def _loaded(model: str | Path | Model | DiffusionPipeline | None, plugins: Sequence[Plugin]) -> Model:
    if isinstance(model, Model):
        return model
    if isinstance(model, DiffusionPipeline):
        return Model(model)
    return Model.load(model or plugins_.default_model(plugins) or BUNDLED)


def settled(settings: Settings, model: Model, *, blank: bool = False) -> Settings:
    """Return the settings with each None replaced by what suits the model and the kind of work.

    A ``flow_momentum`` of None stays: `Scan` replaces it by what the plugins say. blank: whether the clip is
    made from text alone. Then only the noise makes it move, so the noise has to move steadily.
    """
    usual: dict[str, Any] = {
        "prompt": model.default_prompt,
        "scheduler": model.network.scheduler,
        "num_inference_steps": model.network.num_inference_steps,
        "guidance_scale": model.network.guidance_scale,
        "momentum": model.network.momentum,
        "noise": "orbit" if blank else "dependency",
        "divergence": 0.02 if blank else 0.01,
    }
    return replace(settings, **{name: it for name, it in usual.items() if getattr(settings, name) is None})


def _tell_beyond(model: Model, settings: Settings, frame: Frame | None) -> None:
    """Send a notice if a model that can draw only a few things is asked for others.

    frame: one of the clip's frames; None if the result doesn't look like the clip.
    """
    if model.domain is None:
        return
    why = [] if frame is None or model.knows(frame.image) else ["the clip shows something else"]
    if unknown := model.domain.unknown(settings.prompts.values()):
        shown = ", ".join(f"'{each}'" for each in unknown[:5]) + (" and others" if len(unknown) > 5 else "")
        why.append(f"it doesn't know the word{'s' * (len(unknown) > 1)} {shown}")
    if why:
        notify(
            "beyond-model",
            f"{model.name} is {model.domain.about}: {', and '.join(why)}",
            "for anything else, use another `model`; see docs/models.md",
        )


class _TooLarge(Exception):
    """The carry of all steps doesn't fit into memory, so the shot has to be drawn in rows."""


@dataclass
class Place:
    """How far an iteration over an edit has come: ``index`` frames are drawn; the next need ``carry``."""

    index: int
    carry: Carry
    filled: int = 0  # how many of the frames were filled in rather than drawn
    between: Callable[[], object] | None = None  # to call between two steps of a shot in rows


def drawing(frames: Iterator[Frame], count: int) -> list[Frame]:
    """Take frames until ``count`` of them are to be drawn or none are left; return all that were taken."""
    group: list[Frame] = []
    while count and (frame := next(frames, None)) is not None:
        group.append(frame)
        count -= frame.fill is None
    return group


def show_unfitted(clip: Clip, fit: Fit) -> None:
    """Change what ``clip`` says of itself: its pictures have the size in which the model draws them."""
    clip.height, clip.width = fit.scaled
    clip.sample_aspect_ratio = Fraction(1)
    clip.encoding = Encoding(bits=8 if clip.encoding.is_plain else 16)


class Edit(Clip):
    """A clip whose frames are drawn while it is iterated over, a chunk at a time.

    Each iteration draws all frames again, starting with the first. ``index`` is how many frames the latest
    iteration has drawn, and ``carry`` is what the next frames need to know about them. Once you have taken
    ``index`` frames, the edit is between two chunks. No field of ``settings`` is None, except perhaps
    ``size`` and ``chunk_size``. If ``chunk_size`` is None, it is set at the first frame to what fits into
    memory; it is lowered if memory runs out.
    """

    def __init__(
        self,
        clip: Clip,
        scan: Scan,
        fit: Fit,
        plugins: Mapping[str, Mapping[str, Any]],
        progress: Report | None,
        notices: Receiver | None,
    ) -> None:
        facts = {each.name: getattr(clip, each.name) for each in fields(Clip) if each.init}
        super().__init__(**{**facts, "frames": self, "blank": False})
        self.clip = clip  # what is edited
        self.scan = scan
        self.fit = fit
        self.plugins = plugins
        self.settings = scan.settings
        self.chunk_size = scan.settings.chunk_size
        self._progress = progress
        self._notices = notices
        self._stopping = Event()
        self._fitted = True  # whether frames are returned at the source's size
        self._compared = False  # whether clip and prompts were compared with what the model knows
        self._place = Place(0, Carry())

    @property
    def index(self) -> int:
        """How many frames the latest iteration has drawn."""
        return self._place.index

    @property
    def carry(self) -> Carry:
        """What the next frames need to know about those before them."""
        return self._place.carry

    @property
    def steps(self) -> int:
        """How many denoising steps the next frames have taken; 0 between two chunks."""
        row = Row.of(self.carry)
        return 0 if row is None else row.step

    def __iter__(self) -> Iterator[Frame]:
        return self.frames_from(0)

    def frames_from(
        self, index: int, carry: Carry | None = None, between: Callable[[], object] | None = None
    ) -> Iterator[Frame]:
        """Return the frames from position ``index`` on.

        carry: what they need to know about the frames before; None at the start of a clip.
        between: called between two steps, if a shot is drawn in rows.
        """
        self._place = Place(index, Carry() if carry is None else carry, between=between)
        return self._told(self._frames(self._place))

    def unfitted(self) -> Edit:
        """Return this edit with its frames at the size in which the model draws them, without padding.

        These frames have nothing of the source put back into them. `zs2kit.scan.fitted` does both.
        """
        other = copy(self)
        other._fitted, other._place, other.frames = False, Place(0, Carry()), other
        show_unfitted(other, self.fit)
        return other

    def __copy__(self) -> Edit:
        other = type(self).__new__(type(self))
        vars(other).update(vars(self))
        return other

    def __reduce__(self) -> Any:
        raise UsageError(
            "an edit can't be pickled, so it can't be handed to another process",
            "make it there, from a clip and a model that are loaded there",
        )

    def stop(self) -> None:
        """End the current iteration, or the next one if none is running. Any thread may call this.

        The current denoising step is finished; then the iteration raises `Stopped`. What `write` has saved
        can be resumed. A chunk that wasn't finished is then drawn again.
        """
        self._stopping.set()

    def _told(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        """Yield the frames, sending notices that come up meanwhile to the edit's receiver."""
        while True:
            with receiving(self._notices):
                frame = next(frames, None)
            if frame is None:
                return
            yield frame

    def shot(self, index: int, frames: Iterable[Frame], carry: Carry | None = None) -> Iterator[Frame]:
        """Return the edited frames of a shot from position ``index`` on; ``frames`` are the source's.

        carry: what they need to know about the shot's earlier frames; None if there are none. With a carry,
        ``frames`` begin one frame earlier.
        """
        self._place = place = Place(index, carry or Carry())
        source = iter(frames)
        if self.settings.every > 1:
            source = spaced(source, self.settings.every, self.fit)
        if carry is not None:
            next(source)
        return self._told(self._shot(place, source, Pace(index)))

    def _frames(self, place: Place) -> Iterator[Frame]:
        pace, begun = Pace(place.index), place.index
        source = self.marked(place.index)
        # Only for files: other frames may come from another edit, or from code that needs its own thread.
        if isinstance(self.clip.frames, FileFrames | PictureFrames):
            source = ahead(source)
        for first, shot in groupby(source, key=itemgetter(0)):
            # A shot must not depend on the one before it.
            if first == place.index and not is_row(place.carry):
                place.carry = Carry()
            yield from self._shot(place, (frame for _, frame in shot), pace)
        self.scan.hook.finish(frames=place.index)
        every, frames_now = self.settings.every, place.index - begun
        if place.filled < (1 - 1 / every) * (frames_now - every) / 2:  # fewer than half of those possible
            notify(
                "every-drawn",
                f"`every`: only {place.filled} of {frames_now} frames could be filled in; in the others, the "
                "clip's motion isn't clear",
            )

    def marked(self, index: int = 0) -> Iterator[tuple[int, Frame]]:
        """Yield the source's frames from ``index`` on, each with the position of its shot's first frame.

        Frames that aren't to be drawn say how they are filled in. The frame before ``index`` must be one that
        is drawn.
        """
        start = max(0, index - 1)
        found = islice(shots(self.clip, self.settings.cuts), start, None)
        if self.settings.every == 1:
            return islice(found, index - start, None)

        def spread() -> Iterator[tuple[int, Frame]]:
            for first, shot in groupby(found, key=itemgetter(0)):
                frames = (frame for _, frame in shot)
                yield from ((first, frame) for frame in spaced(frames, self.settings.every, self.fit))

        return islice(spread(), index - start, None)

    def _shot(self, place: Place, frames: Iterator[Frame], pace: Pace) -> Iterator[Frame]:
        """Draw the rest of a shot, chunk by chunk or in rows."""
        while group := drawing(frames, self.chunk_size or MOST):
            if not self._compared:
                self._compared = True
                drawn_anew = self.clip.blank or self.scan.moves_itself
                _tell_beyond(self.scan.model, self.settings, None if drawn_anew else group[0])
            made = self._next(group, place, pace)
            if made is None:
                yield from self._rows(place, self._held(chain(group, frames), place), pace)
                return
            before, (chunk, drawn) = place.carry, made
            place.index, place.carry = place.index + chunk.length, drawn.carry
            place.filled += chunk.length - chunk.drawn.length
            yield from self._finished(chunk, drawn, group, before)
            if left := group[chunk.length :]:
                frames = chain(left, frames)

    def _next(self, frames: Sequence[Frame], place: Place, pace: Pace) -> tuple[Chunk, Drawn] | None:
        """Draw a chunk of the first of ``frames``; None if the shot has to be drawn in rows."""
        if self.chunk_size is None:
            self.attempt(frames, place, lambda chunk: None)  # chooses the chunk size and the order
        if self.scan.in_rows or is_row(place.carry):
            return None
        try:
            return self.attempt(frames, place, partial(self._draw, place, pace))
        except _TooLarge:
            return None

    def _finished(
        self, chunk: Chunk, drawn: Drawn, frames: Sequence[Frame], before: Carry
    ) -> Iterator[Frame]:
        scan, frames = self.scan, frames[: chunk.length]
        averaged = before if scan.settings.flow_momentum else None
        enlarger = scan.model.enlarger
        return finished(chunk, drawn, frames, self.encoding, enlarger, before=averaged, fit=self._fitted)

    def _rows(self, place: Place, frames: list[Frame], pace: Pace) -> Iterator[Frame]:
        """Draw ``frames``, the rest of a shot, in rows."""

        def after_step(step: Step, passed: int) -> None:
            self._report(place, pace, step, (len(frames) * step.index + passed) / step.count)

        if row := Row.of(place.carry):  # its steps were taken earlier, so they don't count for the pace
            steps: Any = self.settings.num_inference_steps
            pace = Pace(place.index + len(frames) * row.step / steps)
        while frames:
            rest, groups = iter(frames), list[list[Frame]]()
            while group := drawing(rest, self.chunk_size or MOST):
                groups.append(group)
            starts = accumulate(map(len, groups), initial=place.index)
            chunks = [
                chunk_of(self.clip, group, start, self.fit)
                for group, start in zip(groups, starts, strict=False)
            ]
            rows = self.scan.rows(place.carry, chunks, after_step)
            while frames:
                try:
                    made = next(rows)
                except Exception as error:
                    del rows
                    self._make_room(error, len(groups[0]), place)
                    break
                if isinstance(made, Carry):
                    place.carry = made
                    if place.between is not None:
                        place.between()
                    continue
                before, chunk, group = place.carry, chunks.pop(0), groups.pop(0)
                frames = frames[chunk.length :]
                place.index, place.carry = place.index + chunk.length, made.carry
                place.filled += chunk.length - chunk.drawn.length
                yield from self._finished(chunk, made, group, before)
            self._collect()

    def _held(self, frames: Iterator[Frame], place: Place) -> list[Frame]:
        """Return all ``frames`` of a shot; raise `ModelError` if they don't fit into host memory."""
        height, width = self.fit.padded
        room = free(torch.device("cpu")) / 2
        masks = 4 * self.clip.height * self.clip.width if self.scan.hook.keep.get_hookimpls() else 0
        held: list[Frame] = []
        for frame in frames:
            self._check_stop(place)
            held.append(frame)
            stored = 0 if frame.stored is None else frame.stored.nbytes
            room -= frame.image.nbytes + stored + masks + HELD * height * width
            if room < 0:
                raise ModelError(
                    f"the shot with frame {place.index} is too long for this machine's memory: all of its "
                    f"frames must be held at once, but there is room for only {len(held) - 1}",
                    "use fewer steps or a smaller `size`, or cut the shot into several (`cuts`)",
                )
        return held

    def _draw(self, place: Place, pace: Pace, chunk: Chunk) -> Drawn | Broken:
        """Draw a chunk; after each step, report progress, and end if `stop` was called.

        Raises `_TooLarge` after the first step if the carry of all steps won't fit into memory.
        """

        def after_step(step: Step) -> None:
            self._report(place, pace, step, chunk.length * (step.index + 1) / step.count)
            self.choose_order(self.scan.denoiser.carried * step.count)
            if self.scan.in_rows:
                raise _TooLarge

        self._check_stop(place)
        return self.scan(place.carry, chunk, after_step)

    def _report(self, place: Place, pace: Pace, step: Step, under_way: float) -> None:
        """Report progress after a step, and end if `stop` was called.

        under_way: how many frames the steps taken since ``place`` are worth.
        """
        if self._progress is not None:
            total = self.frame_count
            progress = Progress(
                place.index,
                "drawing",
                total,
                step=step.index + 1,
                steps=step.count,
                under_way=under_way,
                seconds_left=pace.seconds_left(place.index + under_way, total),
            )
            self._progress(progress)
        self._check_stop(place)

    def _check_stop(self, place: Place) -> None:
        if self._stopping.is_set():
            self._stopping.clear()
            raise Stopped(f"stopped after {place.index} frames")

    def beginning(self, index: int, frame: Frame) -> Frame:
        """Return the edited ``frame``, which is the first of a shot, at position ``index`` of the clip."""
        alone = copy(self)
        alone.chunk_size = 1
        chunk, drawn = alone.attempt([frame], Place(index, Carry()), self.scan.alone)
        (edited,) = finished(chunk, drawn, [frame], self.encoding, self.scan.model.enlarger)
        return edited

    def attempt(
        self, frames: Sequence[Frame], place: Place, work: Callable[[Chunk], T | Broken]
    ) -> tuple[Chunk, T]:
        """Do ``work`` on a chunk of the first of ``frames``, at ``place``; return the chunk and the result.

        The chunk has as many frames as there is memory for. If memory runs out, or numbers overflow in a
        later frame, it is tried again with fewer frames. Raises `ModelError` if even the first frame
        overflows or doesn't fit into memory.
        """
        while True:
            length = sum(frame.fill is None for frame in frames)
            try:
                if self.chunk_size is None:
                    self.chunk_size = self._fitting(frames, place.index)
                group = drawing(iter(frames), self.chunk_size)
                chunk = chunk_of(self.clip, group, place.index, self.fit)
                length = chunk.drawn.length
                result = work(chunk)
                if not isinstance(result, Broken):
                    return chunk, result
                if result.frame == 0:
                    raise self.scan.overflowed(chunk.drawn.index)
                self.chunk_size = result.frame  # the frames before that one are good
            except Exception as error:
                self._make_room(error, length, place)
            self._collect()

    def _collect(self) -> None:
        """Free the memory that an error held on to."""
        gc.collect()
        if self.scan.model.device.type == "cuda":
            torch.cuda.empty_cache()

    def choose_order(self, carry: int, peak: int = 0) -> None:
        """Choose whether shots are drawn in rows: they are if a carry of so many bytes fits nowhere.

        There are two carries at a time: one for the current chunk and one for the next. peak: the bytes that
        a chunk of one frame takes besides.
        """
        scan = self.scan
        if scan.in_rows is not None:
            return
        small = peak + 2 * carry <= SHARE * free(scan.model.device)
        scan.in_rows = not (small or 2 * carry <= free(torch.device("cpu")) / 2)
        if not scan.in_rows:
            return
        if scan.ahead is not None:
            scan.in_rows = False
            notify(
                "large-carry",
                f"what momentum keeps of all steps takes {2 * carry / 1e9:.1f} GB, and there may be too "
                f"little memory for it; with {scan.ahead}, all of it is needed at once",
                "use fewer steps, a smaller `size` or `momentum=0`",
            )
            return
        log.info(
            "drawing in rows, that is, each step for a whole shot before the next step: a carry of all steps "
            "would take %.0f MB",
            carry / 1e6,
        )

    def _too_large(self, place: Place) -> ModelError:
        model, (height, width) = self.scan.model, self.fit.padded
        ways = ["a smaller `size`"]
        if self.scan.in_rows:  # part of what is held of each frame of a shot is on the device
            ways.append("shorter shots: `cuts`")
        if model.device.type != "cpu":
            half = half_of(transformer=model.network.name == "transformer")
            ways += [f"half precision: `dtype='{half}'`"] * (model.dtype == torch.float32)
            ways += ["text encoders in host memory: `offload=True`"] * (not model.offload)
        return ModelError(
            f"out of memory on {model.device} at frame {place.index}, even for one frame of {width}x{height}",
            f"use {', or '.join(ways)}",
        )

    def _fitting(self, frames: Sequence[Frame], index: int) -> int:
        """Return how many frames fit into memory at once; move the carry to host memory if it must go there.

        frames: the next frames, a few of which are tried out.
        """
        scan = self.scan
        device = scan.model.device

        def rehearse(count: int) -> Rehearsed:
            return scan.rehearse(chunk_of(self.clip, drawing(iter(frames), count), index, self.fit))

        if scan.model.offload:
            rehearse(1)  # embeds the prompts, so that text encoders are off the device from here on
        room = int(SHARE * free(device))
        one, carry, steps = rehearse(1)
        self.choose_order(carry * steps, one or 0)
        if not scan.in_rows:
            carry *= steps
        if one is None:
            return MOST
        if device.type == "cuda" and one + 2 * carry > room:
            scan.carry_on_host = True
        else:
            room -= 2 * carry  # this chunk's, and the next chunk's, which grows meanwhile
        size = MOST
        if one * MOST > room:
            scan.denoiser.together = False
            # Measure again: this takes less memory, and the first call takes more than later ones.
            one, two = rehearse(1).peak, rehearse(2).peak
            assert one is not None and two is not None
            further = two - one if len(frames) > 1 else one
            size = max(1, min(MOST, 1 + (room - one) // max(1, further)))
        log.info(
            "drawing %d frames at once: each needs %.0f MB, and %.0f MB are free; the carry needs another "
            "%.1f MB %s",
            *(size, one / 1e6, room / 1e6, carry / 1e6),
            "in host memory" if scan.carry_on_host else f"on {device}",
        )
        return size

    def _make_room(self, error: Exception, frames: int, place: Place) -> None:
        """Make room after ``error``, which came while so many ``frames`` were drawn at once.

        The ways are tried one after the other: record no calls, call each branch by itself, move the carry to
        host memory, halve the number of frames. Raises the error itself if it isn't about memory, and
        `ModelError` if none of these ways is left.
        """
        if not is_out_of_memory(error):
            raise error
        device, denoiser = self.scan.model.device, self.scan.denoiser
        if denoiser.launches.records:
            denoiser.launches.stop()
            done = "no calls are recorded"
        elif denoiser.together:
            denoiser.together = False
            done = "each branch has its own call"
        elif device.type == "cuda" and not self.scan.carry_on_host:
            place.carry = HostCarry.of(place.carry, device)
            self.scan.carry_on_host = True
            done = "the carry is in host memory"
        elif frames > 1:
            self.chunk_size = -(-frames // 2)
            done = f"{self.chunk_size} frames are drawn at once"
        else:
            raise self._too_large(place) from error
        log.info("out of memory at frame %d: from here on, %s", place.index, done)

    def describe(self) -> dict[str, Any] | None:
        """Return everything that the frames depend on, for JSON; None if the source is not a file."""
        source = described(self.clip)
        return None if source is None else {**self.described(), **source}

    def described(self) -> dict[str, Any]:
        """Return what `describe` returns, without the source."""
        model = self.scan.model
        return {
            **self.settings.described(),
            "size": list(self.fit.padded),
            "plugins": self.plugins,
            "model": model.name,
            "weights": self.scan.weights(),
            "dtype": str(model.dtype),
            "device": model.device.type,
            "torch": torch.__version__,
        }
