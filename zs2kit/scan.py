"""The scan: a clip is drawn chunk by chunk, (carry, chunk) -> (carry, frames).

There are two orders, in which frames come out the same. In *columns*, all denoising steps of a chunk are
taken before the next chunk begins; the carry holds the averages of all steps. In *rows*, each step is taken
for all chunks of a shot before the next step begins; then only those of one step are needed at a time.
"""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import pairwise
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pluggy import PluginManager

from zs2kit import guidance
from zs2kit.carry import Carry, HostCarry, Row, within, without_row
from zs2kit.clip import Chunk, Clip, Fit, Frame, resized
from zs2kit.denoiser import Denoiser
from zs2kit.encoding import Encoding
from zs2kit.errors import ModelError, PluginError, UsageError, notify
from zs2kit.filling import filled
from zs2kit.memory import copied, peak_of
from zs2kit.model import Embedded, Model
from zs2kit.motion import MOMENTUM, FlowMomentum, acts, settle
from zs2kit.networks.base import Branch
from zs2kit.networks.enlarging import Enlarging
from zs2kit.noise import make_noise
from zs2kit.plugins import Plugin, name_of
from zs2kit.sampler import Kept, sample
from zs2kit.schedule import Step, from_noise, memory_of, remember, steps_of
from zs2kit.settings import Settings

OF_PLUGINS = "plugins/"  # what plugins' names begin with in the carry
_OF_ENLARGED = "enlarged/"  # the same for averages of enlarged pictures


class Drawn(NamedTuple):
    """A chunk that was drawn."""

    carry: Carry  # what the next chunk must know
    pixels: torch.Tensor  # (frames, 3, height, width) in [0, 1]
    keep: NDArray[np.float32] | None  # mask of what stays: (frames, source height, source width)


class Broken(NamedTuple):
    """A chunk in which numbers overflow, even in float32."""

    frame: int  # the first frame in which they do, counted from the chunk's first


class Rehearsed(NamedTuple):
    """The memory that a chunk takes, in bytes."""

    peak: int | None  # None if that can't be measured
    carry: int  # what a step leaves for the next chunk
    steps: int  # how many there are


@dataclass(eq=False)
class _UnderWay:
    """A chunk between the hooks that come before its first denoising step and those after its last."""

    chunk: Chunk
    carry: Carry  # what it must know, and what the next chunk must: in columns of all steps, in rows of one
    following: Carry
    branches: Sequence[Branch]
    scheduler: Any
    latents: torch.Tensor  # those to start from
    first: int  # the first step
    kept: Kept | None
    keep: NDArray[np.float32] | None
    motion: FlowMomentum | None
    surroundings: torch.Tensor | None  # see `Denoiser`
    # In rows: what the next chunk must know before the first step, and what plugins have stored on themselves
    learned: Carry = field(default_factory=Carry)
    stored: Sequence[tuple[Plugin, dict[str, Any]]] = ()

    @property
    def steps(self) -> list[Step]:
        """All steps, also those before the first one that is taken."""
        return steps_of(self.scheduler, self.first)


class Scan:
    """What is drawn and how; calling it draws one more chunk.

    hooks: the plugins', whose `setup` is called here. settings: none of them is None, except perhaps
    ``flow_momentum``, which then depends on what the plugins say after `setup`.
    """

    def __init__(self, model: Model, hooks: PluginManager, clip: Clip, settings: Settings) -> None:
        self.hook: Any = hooks.hook
        self.plugins: list[Plugin] = list(hooks.get_plugins())
        self.model = model
        self.denoiser = Denoiser(model, hooks.hook, settings.momentum)
        self.carry_on_host = False
        self.in_rows: bool | None = None  # None: not yet decided
        # A plugin that calls the network for all steps of a chunk before the first one is taken
        self.ahead = next((name_of(each) for each in self.plugins if _calls_denoiser(each)), None)
        self.wants_first = any(each.wants_first for each in self.plugins)
        self._embedded: Embedded = {}  # the prompts, each embedded once
        self._told = False  # whether a notice said that numbers overflow
        guidance.check(model, settings)
        if model.network.edits and not self.hook.guidance.get_hookimpls():
            raise ModelError(
                f"{model.name} edits pictures, and draws nothing from text alone", "use the plugin instruct"
            )
        self.settings = settings
        scheduler = self._scheduler(*(settings.size or model.native_size))
        self.hook.setup(model=model, denoiser=self.denoiser, scheduler=scheduler, clip=clip)
        # Whether the result has a motion of its own, and with it, perhaps, nothing of what the clip shows
        self.moves_itself = any(each.follows_source is False for each in self.plugins)
        if settings.flow_momentum is None:
            usual = MOMENTUM if follows(self.plugins) and not clip.blank else 0.0
            self.settings = replace(settings, flow_momentum=usual)
        if settings.every > 1 and not follows(self.plugins):
            raise UsageError(
                "`every` fills in frames along the clip's motion, but with these plugins the result moves "
                "differently",
                "leave it out, or add a plugin that follows the source, such as pose",
            )
        if self.settings.flow_momentum and model.faster:
            notify(
                "default-tiny-vae",
                f"flow momentum uses the model's own VAE, since {model.faster}, which is several times as "
                "fast, is not on this machine",
                f"`tiny_vae='{model.faster}'` downloads it",
            )

    def __call__(
        self, carry: Carry, chunk: Chunk, after_step: Callable[[Step], object] = lambda step: None
    ) -> Drawn | Broken:
        """Draw ``chunk``; ``carry`` is what it must know about the chunks before.

        If numbers overflow in half precision, it is drawn again in float32. If plugins want the shot's first
        frame, that is drawn beforehand. ``after_step`` is called after each denoising step.
        """
        if self.wants_first and "first" not in carry:
            first = self._whole(carry, chunk.drawn.only([0]), after_step)
            if isinstance(first, Broken):
                return first
            carry = Carry(first=first.pixels[0].cpu())
            del first  # and its carry, since there is memory for two only
        drawn = self._whole(carry, chunk, after_step)
        return drawn if isinstance(drawn, Broken) else self._filled(drawn, chunk, carry)

    def _filled(self, drawn: Drawn, chunk: Chunk, carry: Carry) -> Drawn:
        """Return what is drawn with the frames that are filled in, see `every`."""
        if self.settings.every == 1:
            return drawn
        drawn.carry["every"] = drawn.pixels[-1].float().cpu()
        return drawn._replace(pixels=filled(drawn.pixels, chunk, carry.get("every")))

    def _whole(self, carry: Carry, chunk: Chunk, after_step: Callable[[Step], object]) -> Drawn | Broken:
        drawn = self._draw(carry, chunk, after_step)
        broken = _first_broken(drawn.pixels)
        if broken is not None and self.model.halves():
            self._tell_overflow(chunk.drawn.indices[broken])
            del drawn
            drawn = self._draw(carry, chunk, after_step, in_float32=True)
            broken = _first_broken(drawn.pixels)
        return drawn if broken is None else Broken(broken)

    def _overflows(self, tensor: torch.Tensor, indices: Sequence[int], *, in_float32: bool) -> bool:
        """Whether what was drawn in rows, (frames, ...), must be drawn again in float32, of which it tells.

        indices: the frames' positions in the clip. in_float32: whether that was done already. Raises
        `ModelError` if numbers overflow all the same.
        """
        broken = _first_broken(tensor)
        if broken is None:
            return False
        if in_float32 or not self.model.halves():
            raise self.overflowed(indices[broken])
        self._tell_overflow(indices[broken])
        return True

    def _tell_overflow(self, frame: int) -> None:
        if not self._told:
            self._told = True
            notify(
                "overflow",
                f"{self.model.name} overflows in {self.model.dtype} at frame {frame}; such frames are drawn "
                "again in float32",
                "to save that time, use bfloat16 or float32 from the start: `dtype='bfloat16'`",
            )

    def overflowed(self, frame: int) -> ModelError:
        """Return the error that numbers overflow at a frame of the clip."""
        return ModelError(
            f"{self.model.name} overflows at frame {frame}, even in float32",
            "use a lower guidance scale or another model",
        )

    @torch.no_grad()
    def _draw(
        self,
        carry: Carry,
        chunk: Chunk,
        after_step: Callable[[Step], object],
        *,
        in_float32: bool = False,
    ) -> Drawn:
        following = self._new_carry()
        with self._sampling(carry, following, in_float32=in_float32):
            it = self._start(carry, following, chunk)
            latents = it.latents
            for step, taken in self._sample(it, latents, it.steps[it.first :]):
                latents = taken
                after_step(step)
            pixels = self._finished(it, latents)
        self._settle()
        return Drawn(following, pixels, it.keep)

    @torch.no_grad()
    def rows(
        self,
        carry: Carry,
        chunks: Sequence[Chunk],
        after_step: Callable[[Step, int], object] = lambda step, frames: None,
    ) -> Iterator[Carry | Drawn]:
        """Draw ``chunks``, which are what is left of a shot, in rows.

        Yields, after each step of them all, the carry with which another call with the same frames goes on
        from there; and then a `Drawn` for each chunk, also with such a carry. ``after_step`` is called after
        each step of a chunk with the step and with how many of the shot's frames have taken it. Raises
        `ModelError` if numbers overflow, even in float32.
        """
        if self.wants_first and "first" not in carry:
            *_, first = self._rows(carry, [chunks[0].drawn.only([0])], lambda step, frames: None)
            assert isinstance(first, Drawn)
            carry = Carry({**carry, "first": first.pixels[0].cpu()})
        yield from self._rows(carry, chunks, after_step)

    def alone(self, chunk: Chunk) -> Drawn:
        """Draw a chunk that is a whole shot."""
        *_, drawn = self.rows(Carry(), [chunk])
        assert isinstance(drawn, Drawn)
        return drawn

    def _rows(
        self, carry: Carry, chunks: Sequence[Chunk], after_step: Callable[[Step, int], object]
    ) -> Iterator[Carry | Drawn]:
        saved, carry = Row.of(carry), without_row(carry)
        indices = [index for each in chunks for index in each.drawn.indices]
        shot = self._start_all(carry, chunks)
        in_float32: list[_UnderWay] = []  # the same, once it is needed
        row = saved or _begun(shot)
        if self._overflows(row.latents, indices, in_float32=False):
            in_float32 = self._start_all(carry, chunks, in_float32=True)
            row = _begun(in_float32)
        while row.step < len(shot[0].steps):
            taken = self._row(carry, shot, row, after_step)
            if self._overflows(taken.latents, indices, in_float32=False):
                in_float32 = in_float32 or self._start_all(carry, chunks, in_float32=True)
                taken = self._row(carry, in_float32, row, after_step, in_float32=True)
                self._overflows(taken.latents, indices, in_float32=True)
            row = taken
            yield row.within(carry)
        while shot:
            it = shot.pop(0)
            count = it.chunk.drawn.length
            pixels, following = self._end(it, carry, row.part(0, count).latents)
            drawn = self._filled(Drawn(Carry({**it.learned, **following}), pixels, it.keep), it.chunk, carry)
            carry, row = drawn.carry, row.part(count)
            yield drawn._replace(carry=row.within(carry))

    def _start_all(
        self, carry: Carry, chunks: Sequence[Chunk], *, in_float32: bool = False
    ) -> list[_UnderWay]:
        """Do what comes before the first step of each of ``chunks``, one after the other."""
        shot: list[_UnderWay] = []
        with self._sampling(carry, Carry(), in_float32=in_float32):
            for chunk in chunks:
                following = Carry()
                self.denoiser.use(carry, following)
                it = self._start(carry, following, chunk)
                if shot and it.first != shot[0].first:
                    raise PluginError(
                        "a plugin begins the chunks of a shot with different steps",
                        "have its initial_latents() return the same step for all of them",
                    )
                # While other chunks have their turn, what is large waits in host memory.
                it.latents = it.latents.cpu()
                if it.motion is not None:
                    it.motion.rest()
                it.learned, it.stored = following, [(each, dict(vars(each))) for each in self.plugins]
                shot.append(it)
                carry = following
        return shot

    def _turn(self, it: _UnderWay, carry: Carry, following: Carry) -> None:
        """Go on with a chunk after another one: with its carry, and with what plugins have stored for it."""
        it.carry, it.following = carry, following
        self.denoiser.use(carry, following)
        self.denoiser.surroundings = it.surroundings
        if it.motion is not None:
            it.motion.use(carry, following)
        for plugin, stored in it.stored:
            plugin.__dict__ = stored

    def _row(
        self,
        carry: Carry,
        shot: Sequence[_UnderWay],
        row: Row,
        after_step: Callable[[Step, int], object],
        *,
        in_float32: bool = False,
    ) -> Row:
        """Take the next step with all chunks of a shot."""
        taken: list[Row] = []
        drawn = passed = 0
        with self._sampling(carry, Carry(), in_float32=in_float32):
            for it in shot:
                following = self._new_carry()
                self._turn(it, carry, following)
                part = row.part(drawn, it.chunk.drawn.length)
                remember(it.scheduler, part.memory, self.model.device)
                steps = [it.steps[row.step]]
                ((step, latents),) = self._sample(it, part.latents.to(self.model.device), steps)
                taken.append(Row(row.step + 1, latents.cpu(), memory_of(it.scheduler)))
                # The network prepares its inputs again in the next step, since it keeps them for as long as
                # there are these branches: those of a whole shot would fill the device.
                it.branches = [replace(each) for each in it.branches]
                self._settle()
                drawn, passed = drawn + it.chunk.drawn.length, passed + it.chunk.length
                after_step(step, passed)
                carry = following
        return Row.joined(taken)

    def _end(self, it: _UnderWay, carry: Carry, latents: torch.Tensor) -> tuple[torch.Tensor, Carry]:
        """Return a chunk's frames, and what the next one must know to finish its own."""
        for in_float32 in (False, True):
            following = Carry()
            with self._sampling(carry, following, in_float32=in_float32):
                self._turn(it, carry, following)
                pixels = self._finished(it, latents.to(self.model.device))
            if not self._overflows(pixels, it.chunk.drawn.indices, in_float32=in_float32):
                break
        return pixels, following

    @contextmanager
    def _sampling(self, carry: Carry, following: Carry, *, in_float32: bool = False) -> Iterator[None]:
        """Within this context, the model is this edit's alone, and the denoiser can be called."""
        networks = self.denoiser.networks.values()
        with (
            self.model.lock,
            self.model.embedding_once(self._embedded),
            self.denoiser.sampling(carry, following),  # first, since plugins may add to the model there
            self.model.in_float32(networks) if in_float32 else nullcontext(),
        ):
            yield

    def _new_carry(self) -> Carry:
        return HostCarry(self.model.device) if self.carry_on_host else Carry()

    def _settle(self) -> None:
        """Wait until a carry in host memory is there."""
        if self.carry_on_host:
            torch.get_device_module(self.model.device).synchronize()

    def _start(self, carry: Carry, following: Carry, chunk: Chunk) -> _UnderWay:
        """Call the hooks that are called once per chunk, and do all else that comes before its first step."""
        settings, model = self.settings, self.model
        if "first" in carry:
            following["first"] = carry["first"]
            (first,) = to_images(carry["first"][None])
            chunk = replace(chunk, first=first)
        branches, keep = self._prepare(chunk, carry, following)
        drawn = None if keep is None else keep[chunk.places]
        whole, chunk = chunk, chunk.drawn
        scheduler = self._scheduler(chunk.height, chunk.width)
        noise = self._noise(carry, following, chunk, "initial")
        motion = None
        if settings.flow_momentum and chunk.fitted is not None:
            motion = FlowMomentum(settings.flow_momentum, model, chunk.images, carry, following)
        start = self.hook.initial_latents(
            chunk=chunk,
            noise=noise,
            scheduler=scheduler,
            steps=steps_of(scheduler),
            model=model,
            denoiser=self.denoiser,
            branches=branches,
            step_noise=lambda step: self._noise(carry, following, chunk, "step", step.index),
            average=lambda step, aim: aim if motion is None else motion(step.index, step.count, aim),
        )
        latents, begin = start[0] if start else (from_noise(scheduler, noise), 0)
        kept = None if drawn is None or model.inpaints else self._kept_source(chunk, drawn, noise)
        return _UnderWay(
            whole,
            carry,
            following,
            branches,
            scheduler,
            latents,
            begin,
            kept,
            keep,
            motion,
            self.denoiser.surroundings,
        )

    def _sample(
        self, it: _UnderWay, latents: torch.Tensor, steps: Sequence[Step]
    ) -> Iterator[tuple[Step, torch.Tensor]]:
        """Take ``steps`` with a chunk's ``latents``; yield each with the latents after it."""
        chunk = it.chunk.drawn
        return sample(
            self.denoiser,
            it.scheduler,
            latents,
            it.branches,
            lambda step: self._noise(it.carry, it.following, chunk, "step", step.index),
            steps,
            it.kept,
            it.motion,
            self._correct(chunk),
        )

    def _correct(self, chunk: Chunk) -> Callable[[Step, torch.Tensor], torch.Tensor] | None:
        """What adds plugins' differences to the finished latents that a step expects; None if none does."""
        if not self.hook.estimate.get_hookimpls():
            return None
        return lambda step, expected: _sum(
            expected, self.hook.estimate(step=step, estimate=expected, chunk=chunk)
        )

    def _finished(self, it: _UnderWay, latents: torch.Tensor) -> torch.Tensor:
        """Decode a chunk's latents, and do all else that comes after its last step."""
        pixels = self.model.decode(latents)
        if it.motion is not None:
            pixels = it.motion.finish(pixels)
        changed = _sum(pixels, self.hook.decoded(chunk=it.chunk.drawn, pixels=pixels))
        if changed is pixels:
            return pixels
        # Infinity must not pass for black or white.
        return changed.clamp(0, 1).where(changed.isfinite(), torch.nan)

    def _prepare(
        self, chunk: Chunk, carry: Carry, following: Carry
    ) -> tuple[Sequence[Branch], NDArray[np.float32] | None]:
        """Have the plugins look at the chunk; return the branches of its guidance and the mask of what stays.

        The mask is (frames, source height, source width), or None if all is drawn.
        """
        settings = self.settings
        known = {name[len(OF_PLUGINS) :]: carry[name] for name in carry if name.startswith(OF_PLUGINS)}
        for told in self.hook.prepare(chunk=chunk.drawn, model=self.model, carry=known, whole=chunk):
            following.update({OF_PLUGINS + name: tensor for name, tensor in told.items()})
        given: list[Sequence[Branch]] = self.hook.guidance(
            prompt=settings.prompts[0],
            negative_prompt=settings.negative_prompt,
            guidance_scale=settings.guidance_scale,
            model=self.model,
            chunk=chunk.drawn,
        )
        masks = self.hook.keep(chunk=chunk)
        keep = np.maximum.reduce(masks) if masks else None
        if self.model.inpaints:
            drawn = None if keep is None else keep[chunk.places]
            self.denoiser.surroundings = self._surroundings(chunk.drawn, drawn)
        return given[0] if given else guidance.classifier_free(self.model, settings, chunk.drawn), keep

    def _surroundings(self, chunk: Chunk, keep: NDArray[np.float32] | None) -> torch.Tensor:
        """Return what a model that inpaints sees beside the latents, as its diffusers pipeline makes it.

        That is 1 for each latent of which a part is drawn, and the source's latents, grey where it is drawn.
        FLUX.1 Fill sees these the other way round, and 1 for each pixel that is drawn.
        """
        assert chunk.fit is not None
        if keep is None:
            stays = torch.zeros(chunk.length, 1, chunk.height, chunk.width)
        else:
            mask = np.stack([chunk.fit.apply(each) for each in keep])[:, None]
            stays = (torch.from_numpy(mask) > 0.999).float()  # of what fades out, something is drawn
        source = torch.zeros(chunk.length, 3, *stays.shape[2:]) if chunk.fitted is None else chunk.pixels
        around, scale = self.model.encode(source * stays), self.model.vae_scale
        if self.model.network.channels - 2 * self.model.latent_channels == 1:
            drawn = torch.nn.functional.max_pool2d(1 - stays, scale)
            return torch.cat([drawn.to(self.model.device), around], dim=1)
        drawn = torch.nn.functional.pixel_unshuffle(1 - stays, scale)
        return torch.cat([around, drawn.to(self.model.device)], dim=1)

    def _kept_source(self, chunk: Chunk, keep: NDArray[np.float32], noise: torch.Tensor) -> Kept:
        """Return what the sampler puts back of the source; the masks ``keep`` have the source's size."""
        assert chunk.fit is not None
        mask = torch.from_numpy(np.stack([chunk.fit.apply(each) for each in keep]))[:, None]
        # A latent stays only if all of its pixels do, or the region that is drawn would be cut off.
        mask = -torch.nn.functional.max_pool2d(-mask, self.model.vae_scale)
        return Kept(self.model.encode(chunk.pixels), noise, mask.clamp(0, 1).to(noise))

    def _scheduler(self, height: int, width: int) -> Any:
        """Return a fresh scheduler for pictures of ``height`` x ``width`` pixels."""
        return self.model.network.begin(
            self.settings.scheduler,
            self.settings.num_inference_steps,
            *self.model.latent_shape(height, width)[1:],
        )

    def _noise(
        self, carry: Carry, following: Carry, chunk: Chunk, purpose: str, step: int = 0
    ) -> torch.Tensor:
        key = f"noise/{purpose}/{step}"
        state = carry.get(key)
        noise, following[key] = make_noise(
            self.settings.noise,
            self.model.latent_shape(chunk.height, chunk.width),
            chunk.indices,
            self.settings.divergence,
            self.settings.seed,
            None if state is None else state.cpu(),
            purpose=purpose,
            step=step,
        )
        return copied(noise, self.model.device)

    @torch.no_grad()
    def rehearse(self, chunk: Chunk) -> Rehearsed:
        """Measure the memory that the chunk takes.

        Everything whose memory grows with the number of frames is called once: plugins, the network and side
        networks.
        """
        chunk = self._with_some_first(chunk)
        following = Carry()
        steps = steps_of(self._scheduler(chunk.height, chunk.width))

        def call() -> None:
            with (
                self.model.lock,
                self.model.embedding_once(self._embedded),
                self.denoiser.sampling(Carry(), following, recording=False),
            ):
                drawn = chunk.drawn
                noise = self._noise(Carry(), Carry(), drawn, "initial")
                middle = steps[len(steps) // 2]
                self.denoiser.guided(noise, middle, self._prepare(chunk, Carry(), Carry())[0])
                self.hook.estimate(step=middle, estimate=noise, chunk=drawn)
                pixels = torch.zeros((drawn.length, 3, drawn.height, drawn.width), device=noise.device)
                self.hook.decoded(chunk=drawn, pixels=pixels)

        return Rehearsed(peak_of(call, self.model.device), following.nbytes, len(steps))

    @torch.no_grad()
    def seconds(self, chunk: Chunk) -> float:
        """Estimate how long the chunk takes, by timing one step, two averages of flow momentum, and all else.

        This is done as if nothing came before the chunk, and leaves nothing behind.
        """
        chunk = self._with_some_first(chunk)
        moments: list[float] = []

        def mark() -> None:
            torch.get_device_module(self.model.device).synchronize()
            moments.append(perf_counter())

        following = Carry()
        with self._sampling(Carry(), following):
            mark()
            started = self._start(Carry(), following, chunk)
            whole, chunk = chunk, chunk.drawn
            steps = steps_of(started.scheduler)
            mark()
            middle = steps[len(steps) // 2]
            for _ in range(2 * self.denoiser.launches.records):  # or recording would be timed
                self.denoiser.guided(started.latents, middle, started.branches)
                following.clear()
            mark()
            self.denoiser.guided(started.latents, middle, started.branches)
            self.hook.estimate(step=middle, estimate=started.latents, chunk=chunk)
            mark()
            averaged = [each for each in steps if started.motion is not None and acts(each.index, each.count)]
            # The last one takes longer than the others; and whichever comes first has to wait for the flows.
            for each in (averaged[-1:], averaged[:1]):
                if started.motion is not None:
                    started.motion(each[0].index, each[0].count, started.latents)
                mark()
            filled(self._finished(started, started.latents), whole, None)
            mark()
        start, _, step, last, average, end = (after - before for before, after in pairwise(moments))
        averages = sum(each.index >= started.first for each in averaged)
        averaging = last + (averages - 1) * average if averages else 0
        return start + (len(steps) - started.first) * step + averaging + end

    def _with_some_first(self, chunk: Chunk) -> Chunk:
        """Return the chunk with a black frame as the shot's first, if plugins want one."""
        if not self.wants_first:
            return chunk
        return replace(chunk, first=np.zeros((chunk.height, chunk.width, 3), np.uint8))

    def weights(self) -> str:
        """Return a fingerprint of the weights: a checksum of a few numbers of each tensor."""
        with self.model.lock:  # since other edits may change the model while they sample
            enlarger = self.model.enlarger
            own = [] if enlarger is None else [enlarger.network]
            tensors = [
                tensor.flatten()[:: max(1, tensor.numel() // 8)].float().cpu()
                for part in (*self.model.modules, *own, *self.denoiser.networks.values())
                for tensor in part.state_dict().values()
            ]
            return f"{zlib.crc32(torch.cat(tensors).numpy().tobytes()):08x}"


def _begun(shot: Sequence[_UnderWay]) -> Row:
    """Return a shot's frames before their first step."""
    return Row.joined([Row(it.first, it.latents, {}) for it in shot])


def _calls_denoiser(plugin: Plugin) -> bool:
    hook = getattr(plugin, "initial_latents", None)
    return hook is not None and "denoiser" in inspect.signature(hook).parameters


def follows(plugins: Iterable[Plugin]) -> bool:
    """Return whether the result of an edit with these plugins moves as the source does.

    A plugin must say so, by `follows_source`, and none may say that it doesn't.
    """
    said = [each.follows_source for each in plugins]
    return True in said and False not in said


def chunk_of(clip: Clip, frames: Sequence[Frame], index: int, fit: Fit) -> Chunk:
    """Return the chunk of ``frames``, which start at position ``index`` of the clip, fitted to the model."""
    times = tuple(frame.pts * clip.time_base for frame in frames)
    fills = tuple(frame.fill for frame in frames)
    chunk = Chunk(index, len(frames), *fit.padded, times, fit=fit, fills=fills)
    if not clip.blank:
        chunk.frames = [frame.image for frame in frames]
        chunk.fitted = np.stack([fit.apply(image) for image in chunk.frames])
    return chunk


def finished(
    chunk: Chunk,
    drawn: Drawn,
    frames: Sequence[Frame],
    encoding: Encoding,
    enlarger: Enlarging | None = None,
    *,
    before: Carry | None = None,
    fit: bool = True,
) -> Iterator[Frame]:
    """Yield ``frames`` with the drawn pictures, at the source's size; where the mask says so, the source's.

    encoding: of what is yielded. enlarger: enlarges pictures that are smaller than the source; None is
    interpolation. before: what the frames must know about those before, to average enlarged pictures along
    the source's motion; what the next ones must know is added to that of ``drawn``. None averages nothing.
    ``fit=False`` yields the pictures as the model has drawn them, without its
    padding, for `fitted` to bring them to a size.
    """
    assert chunk.fit is not None
    state = Carry() if before is None else within(before, _OF_ENLARGED)
    for index, (frame, pixels) in enumerate(zip(frames, drawn.pixels, strict=False)):
        picture = chunk.fit.cropped(pixels.permute(1, 2, 0).float().cpu().numpy())
        keep = None if drawn.keep is None else drawn.keep[index]
        source = None if chunk.frames is None else frame
        edited = frame._replace(source=source, keep=keep)
        if fit:
            height, width = frame.image.shape[:2]
            if enlarger is not None and (height > picture.shape[0] or width > picture.shape[1]):
                large = enlarger(torch.from_numpy(picture).permute(2, 0, 1))
                if before is not None and source is not None:
                    large = settle(large[None], [source.image], state)[0]
                    drawn.carry.update({_OF_ENLARGED + name: tensor for name, tensor in state.items()})
                picture = large.permute(1, 2, 0).numpy()
            yield fitted(picture, edited, (height, width), encoding)
        elif encoding.is_plain:
            yield edited._replace(image=to_image(picture))
        else:
            stored = encoding.stored(picture)
            yield edited._replace(image=encoding.image(stored), stored=stored)


def fitted(picture: NDArray[np.float32], frame: Frame, size: tuple[int, int], encoding: Encoding) -> Frame:
    """Return ``frame`` with a ``picture`` (height, width, 3) in [0, 1], brought to ``size`` (height, width).

    Where the frame has a mask of what is kept, and its source that size, the source stays. Pictures of 16
    bits, float or HDR are mixed as they are shown, and stored in the source's ``encoding``; what stays has
    the source's numbers to the bit, and so has alpha.
    """
    source = frame.source or frame
    mask = None
    if frame.keep is not None and frame.keep.shape == size:
        mask = frame.keep[:, :, None]
    if encoding.is_plain or source.stored is None:
        image = resized(to_image(picture), size)
        if mask is not None:
            image = (mask * source.image + (1 - mask) * image).round().astype(np.uint8)
        return frame._replace(image=image, stored=None)
    shown = np.clip(resized(picture, size), 0, 1)
    if mask is not None:
        shown = mask * encoding.shown(source.stored) + (1 - mask) * shown
    alpha = resized(source.stored[..., 3], size) if encoding.alpha else None
    stored = encoding.stored(shown, alpha)
    if mask is not None:
        stored = np.where(mask == 1, source.stored, stored)
    return frame._replace(image=encoding.image(stored), stored=stored)


def to_image(picture: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A picture in [0, 1] -> uint8."""
    return (picture * 255).round().astype(np.uint8)


def to_images(pixels: torch.Tensor) -> NDArray[np.uint8]:
    """(frames, 3, height, width) in [0, 1] -> (frames, height, width, 3) uint8."""
    return (pixels * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def _sum(tensor: torch.Tensor, differences: Sequence[torch.Tensor]) -> torch.Tensor:
    """``tensor`` with the plugins' ``differences`` added; the same one if there are none."""
    if not differences:
        return tensor
    return tensor + torch.stack([each.to(tensor) for each in differences]).sum(dim=0)


def _first_broken(pixels: torch.Tensor) -> int | None:
    """Return which of the frames (frames, ...) is the first with NaN or infinity, or None."""
    whole: list[bool] = pixels.isfinite().flatten(1).all(1).tolist()
    return None if all(whole) else whole.index(False)
