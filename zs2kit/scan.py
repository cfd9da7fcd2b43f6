"""An edit is a scan over the chunks of a clip: (carry, chunk) -> (carry, pixels). So is generation."""

from __future__ import annotations

import gc
import logging
import math
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from copy import copy
from dataclasses import replace
from fractions import Fraction
from itertools import chain, groupby, islice, pairwise
from operator import itemgetter
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pluggy import PluginManager

from zs2kit import plugins as plugins_
from zs2kit.carry import Carry, HostCarry
from zs2kit.clip import Chunk, Clip, Fit, Frame
from zs2kit.denoiser import Branch, Denoiser
from zs2kit.errors import ModelError, UsageError, is_out_of_memory
from zs2kit.io.sequence import Pattern
from zs2kit.journal import fingerprint
from zs2kit.memory import free, peak_of
from zs2kit.model import BUNDLED, Embeds, Model
from zs2kit.motion import MOMENTUM, FlowMomentum, acts
from zs2kit.noise import MAX_DIVERGENCE, NOISES, make_noise
from zs2kit.sampler import SCHEDULERS, Kept, make_scheduler, sample, steps_of
from zs2kit.shots import Cuts, shots

log = logging.getLogger(__name__)

MOST = 8  # frames at once, unless told otherwise: twice as many took 6% less time on a CPU
LARGEST = 16384  # side of a picture, which is also H.264's
SHARE = 0.8  # of the free memory that is counted on

Prompts = str | Mapping[int, str]  # one for all frames, or from which frame on which


class _Begun(NamedTuple):
    """A chunk before its first denoising step: what `sample` takes."""

    branches: Sequence[Branch]
    scheduler: Any
    latents: torch.Tensor
    first: int  # step
    kept: Kept | None
    motion: FlowMomentum | None


class Scan:
    """One edit under way: its settings, and the function that takes it one chunk further."""

    def __init__(
        self,
        model: Model,
        hooks: PluginManager,
        clip: Clip,
        *,
        prompt: Prompts | None,
        negative_prompt: str,
        scheduler: str,
        num_inference_steps: int,
        guidance_scale: float,
        noise: str,
        momentum: float,
        divergence: float,
        flow_momentum: float,
        seed: int,
    ) -> None:
        self.hook: Any = hooks.hook
        self.model = model
        self.denoiser = Denoiser(model, hooks.hook, momentum)
        prompt = model.default_prompt if prompt is None else prompt
        self.prompts = {0: prompt} if isinstance(prompt, str) else dict(sorted(prompt.items()))
        self.negative_prompt = negative_prompt
        self.scheduler = scheduler
        self.num_inference_steps = num_inference_steps
        self.guidance_scale = guidance_scale
        self.noise = noise
        self.divergence = divergence
        self.flow_momentum = flow_momentum
        self.seed = seed
        self.carry_on_host = False
        self.wants_first = any(getattr(each, "wants_first", False) for each in hooks.get_plugins())
        self._warned = False  # that numbers break
        self.hook.setup(model=model, denoiser=self.denoiser, scheduler=self._scheduler(), clip=clip)

    @torch.no_grad()
    def __call__(self, carry: Carry, chunk: Chunk) -> tuple[Carry, torch.Tensor]:
        """Return what the next chunk needs, and this chunk's pixels (frames, 3, height, width) in [0, 1].

        A chunk in which numbers break in half precision is made again in float32. Frames of which they
        break then too are NaN. Where plugins hold a shot to its first frame, that one is drawn beforehand.
        """
        if self.wants_first and "first" not in carry:
            pixels = self._made(carry, chunk.beginning())[1]  # its carry goes: there is room for two alone
            if first_broken(pixels) is not None:
                return Carry(), pixels
            carry = Carry(first=pixels[0].cpu())
        return self._made(carry, chunk)

    def _made(self, carry: Carry, chunk: Chunk) -> tuple[Carry, torch.Tensor]:
        following, pixels = self._pass(carry, chunk)
        bad = first_broken(pixels)
        if bad is None or not self.model.halves():
            return following, pixels
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{self.model.name} overflows in {self.model.dtype} at frame {chunk.index + bad}: "
                "such frames are made again in float32; bfloat16 or float32 from the start saves that time",
                stacklevel=2,
            )
        return self._pass(carry, chunk, in_float32=True)

    @torch.no_grad()
    def rehearse(self, chunk: Chunk) -> tuple[int | None, int]:
        """Return the bytes that the chunk takes at its peak, and those of the carry that it leaves.

        All that takes more for more frames is called once: plugins, U-Net and side networks. None if the peak
        can't be measured.
        """
        self._stand_in(chunk)
        following = Carry()
        steps = steps_of(self._scheduler())

        def call() -> None:
            with self.model.lock, self.denoiser.sampling(Carry(), following):
                noise = self._noise(Carry(), Carry(), chunk, "initial")
                for branch in self._branches(chunk):
                    self.denoiser(noise, steps[len(steps) // 2], branch)

        return peak_of(call, self.model.device), following.nbytes * len(steps)

    @torch.no_grad()
    def seconds(self, chunk: Chunk) -> float:
        """Return how long the chunk takes, by one of its steps, one average along the motion, and all else.

        That works as if nothing came before the chunk, and leaves nothing behind.
        """
        self._stand_in(chunk)
        moments: list[float] = []

        def mark() -> None:
            torch.get_device_module(self.model.device).synchronize()
            moments.append(perf_counter())

        following = Carry()
        with self.model.lock, self.denoiser.sampling(Carry(), following):
            mark()
            begun = self._begun(Carry(), following, chunk)
            steps = steps_of(begun.scheduler)
            mark()
            for branch in begun.branches:
                self.denoiser(begun.latents, steps[len(steps) // 2], branch)
            mark()
            averaged = [each for each in steps if begun.motion is not None and acts(each.index, each.count)]
            if begun.motion is not None:
                begun.motion(averaged[0].index, averaged[0].count, begun.latents)
            mark()
            pixels = self.model.decode(begun.latents)
            if begun.motion is not None:
                begun.motion.finish(pixels)
            mark()
        beginning, step, average, end = (after - before for before, after in pairwise(moments))
        averages = sum(each.index >= begun.first for each in averaged)
        return beginning + (len(steps) - begun.first) * step + averages * average + end

    def _stand_in(self, chunk: Chunk) -> None:
        """Give the chunk some first frame to go by, as all chunks of an edit have, where plugins want one."""
        if self.wants_first:
            chunk.first = np.zeros((chunk.height, chunk.width, 3), np.uint8)

    def _pass(self, carry: Carry, chunk: Chunk, *, in_float32: bool = False) -> tuple[Carry, torch.Tensor]:
        following = HostCarry(self.model.device) if self.carry_on_host else Carry()
        networks = self.denoiser.networks.values()
        if "first" in carry:
            following["first"] = carry["first"]
            (chunk.first,) = to_images(carry["first"][None])
        with (
            self.model.lock,
            self.denoiser.sampling(carry, following),  # in which plugins may add to the model
            self.model.in_float32(networks) if in_float32 else nullcontext(),
        ):
            begun = self._begun(carry, following, chunk)
            latents = sample(
                self.denoiser,
                begun.scheduler,
                begun.latents,
                begun.branches,
                lambda step: self._noise(carry, following, chunk, "step", step.index),
                begun.first,
                begun.kept,
                begun.motion,
            )
            pixels = self.model.decode(latents)
            if begun.motion is not None:
                pixels = begun.motion.finish(pixels)
        if self.carry_on_host:
            torch.get_device_module(self.model.device).synchronize()
        return following, pixels

    def _begun(self, carry: Carry, following: Carry, chunk: Chunk) -> _Begun:
        branches = self._branches(chunk)
        scheduler = self._scheduler()
        noise = self._noise(carry, following, chunk, "initial")
        kept = self._kept(chunk, noise)
        motion = self._motion(carry, following, chunk)
        start = self.hook.initial_latents(
            chunk=chunk,
            noise=noise,
            scheduler=scheduler,
            steps=steps_of(scheduler),
            model=self.model,
            denoiser=self.denoiser,
        )
        latents, first = start[0] if start else (noise * scheduler.init_noise_sigma, 0)
        return _Begun(branches, scheduler, latents, first, kept, motion)

    def _branches(self, chunk: Chunk) -> Sequence[Branch]:
        self.hook.prepare(chunk=chunk, model=self.model)
        given: list[Sequence[Branch]] = self.hook.guidance(
            prompt=self.prompts[0],
            negative_prompt=self.negative_prompt,
            guidance_scale=self.guidance_scale,
            model=self.model,
            chunk=chunk,
        )
        return given[0] if given else self._classifier_free(chunk)

    def weights(self) -> str:
        """Return by what the weights are known again: a checksum of a few numbers of each tensor."""
        with self.model.lock:  # other edits change the model while they sample
            parts = [*self.model.pipeline.components.values(), *self.denoiser.networks.values()]
            tensors = [
                tensor.flatten()[:: max(1, tensor.numel() // 8)].float().cpu()
                for part in parts
                if isinstance(part, torch.nn.Module)
                for tensor in part.state_dict().values()
            ]
            return f"{zlib.crc32(torch.cat(tensors).numpy().tobytes()):08x}"

    def _scheduler(self) -> Any:
        return make_scheduler(
            self.scheduler, self.model.scheduler_config, self.num_inference_steps, self.model.device
        )

    def _noise(
        self, carry: Carry, following: Carry, chunk: Chunk, purpose: str, step: int = 0
    ) -> torch.Tensor:
        key = f"noise/{purpose}/{step}"
        state = carry.get(key)
        noise, following[key] = make_noise(
            self.noise,
            self.model.latent_shape(chunk.height, chunk.width),
            chunk.indices,
            self.divergence,
            self.seed,
            None if state is None else state.cpu(),
            purpose=purpose,
            step=step,
        )
        return noise.to(self.model.device)

    def _motion(self, carry: Carry, following: Carry, chunk: Chunk) -> FlowMomentum | None:
        if self.flow_momentum == 0 or chunk.pixels is None:
            return None
        return FlowMomentum(self.flow_momentum, self.model, chunk.images, carry, following)

    def _kept(self, chunk: Chunk, noise: torch.Tensor) -> Kept | None:
        """What the plugins keep of the source, for the sampler here and for `finished` in ``chunk.kept``."""
        masks = self.hook.keep(chunk=chunk)
        if not masks:
            return None
        assert chunk.fit is not None and chunk.pixels is not None
        chunk.kept = np.maximum.reduce(masks)
        mask = torch.from_numpy(np.stack([chunk.fit.apply(each) for each in chunk.kept]))[:, None]
        # A latent stays only where all of its pixels do, or what is drawn anew would be cut short.
        mask = -torch.nn.functional.max_pool2d(-mask, self.model.vae_scale)
        return Kept(self.model.encode(chunk.pixels), noise, mask.clamp(0, 1).to(noise))

    def _classifier_free(self, chunk: Chunk) -> list[Branch]:
        """Classifier-free guidance: s times the prediction with the prompt, 1 - s times that without."""
        embeds, negative = self._embeds(chunk)
        width = self.model.unet.config.time_cond_proj_dim
        if width is not None:  # a distilled model, which takes the scale as an input
            scale = torch.tensor([self.guidance_scale - 1])
            cond = self.model.pipeline.get_guidance_scale_embedding(scale, embedding_dim=width)
            cond = cond.to(self.model.device, self.model.dtype)
            return [Branch("text", 1.0, embeds.prompt_embeds, embeds.conditions, cond)]
        text = Branch("text", self.guidance_scale, embeds.prompt_embeds, embeds.conditions)
        if self.guidance_scale == 1:
            return [text]
        empty = Branch(
            "negative",
            1 - self.guidance_scale,
            negative.prompt_embeds,
            negative.conditions,
            conditional=False,
        )
        return [empty, text]

    def _embeds(self, chunk: Chunk) -> tuple[Embeds, Embeds]:
        """The prompts as this chunk's frames see them: between two of them, something in between."""
        embedded = {
            index: self.model.embed(prompt, self.negative_prompt, chunk.height, chunk.width)
            for index, prompt in self.prompts.items()
        }
        text, negative = embedded[0]
        if len(embedded) == 1:
            return text, negative
        weights = interpolation(list(self.prompts), chunk.indices).to(self.model.device)
        embeds = torch.cat([each.prompt_embeds for each, _ in embedded.values()])
        pooled = {
            name: torch.cat([each.conditions[name] for each, _ in embedded.values()])
            for name in text.conditions
        }
        return Embeds(_mixed(weights, embeds), {k: _mixed(weights, v) for k, v in pooled.items()}), negative


def interpolation(keys: Sequence[int], frames: range) -> torch.Tensor:
    """Return weights (frames, keys) with which what holds at frames ``keys``, rising, is mixed linearly.

    After the last of them it holds alone, and before the first that one does.
    """
    positions = np.arange(frames.start, frames.stop)
    return torch.from_numpy(np.stack([np.interp(positions, keys, row) for row in np.eye(len(keys))], axis=1))


def _mixed(weights: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """(frames, keys), (keys, ...) -> (frames, ...)."""
    mixed: torch.Tensor = torch.tensordot(weights.to(values), values, dims=1)
    return mixed


def edit(
    clip: Clip,
    prompt: Prompts | None = None,
    *,
    plugins: Sequence[object] = (),
    model: str | Path | Model | None = None,
    negative_prompt: str = "",
    scheduler: str = "ddim",
    num_inference_steps: int = 20,
    guidance_scale: float = 5.0,
    noise: str = "dependency",
    momentum: float = 0.98,
    divergence: float = 0.01,
    flow_momentum: float | None = None,
    size: tuple[int, int] | None = None,
    chunk_size: int | None = None,
    cuts: Cuts = "auto",
    seed: int = 0,
) -> Clip:
    """Return ``clip`` edited: the same frames' times, other pictures.

    Everything is checked here; frames are made while the returned clip is iterated over, a chunk at
    a time, so memory doesn't grow with the clip.

    prompt: what to draw; None is the model's default prompt. Or several, by the position of the frame
    at which each holds, 0 among them; between two of them their embeddings are interpolated.
    plugins: instances, such as ``Pose(scale=0.8)``; they are copied, and not changed.
    model: a `Model`, or what `Model.load` takes; None is the plugins' default model or the bundled one.
    scheduler: ddim, euler, dpm++, unipc or lcm.
    guidance_scale: of classifier-free guidance; 1 is none.
    noise: how the frames' noise is correlated: dependency; its relatives are orbit, mixed, progressive,
    independent and shared (see `zs2kit.noise.make_noise`).
    momentum: mu in [0, 1] of temporal momentum attention; 0 is plain self-attention.
    divergence: lambda in [0, sqrt(e)] of the noise; 0 is a still, sqrt(e) independent frames.
    flow_momentum: in [0, 1], how much a frame takes over from the one before it, moved along the source's
    optical flow; 0 is nothing (see `zs2kit.motion`). None is `default_flow_momentum` of the plugins.
    size: (height, width) to fit the frames into for the model; None is its native size.
    chunk_size: frames at a time; more is faster and takes more memory, and doesn't change the picture. None
    is 8, or as many as there is memory for. Should it run out, they become less.
    cuts: where a shot begins that must know nothing of the one before: "auto" finds them while the clip is
    read; or their times in seconds, as in `read`, and none if empty.
    seed: not negative; the same seed and settings give the same frames.

    Raises `UsageError` for a value out of range, `ModelError` and `PluginError` where those don't load
    or don't fit.
    """
    return _sampled(
        clip,
        plugins,
        model,
        size,
        chunk_size,
        cuts,
        prompt=prompt,
        negative_prompt=negative_prompt,
        scheduler=scheduler,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        noise=noise,
        momentum=momentum,
        divergence=divergence,
        flow_momentum=default_flow_momentum(plugins) if flow_momentum is None else flow_momentum,
        seed=seed,
    )


def default_flow_momentum(plugins: Sequence[object]) -> float:
    """Return how much a frame takes over along the source's motion, unless told otherwise.

    A plugin's `follows_source` says whether what it steers goes where the source goes (True, as of plugins
    that don't say), moves by itself (False), or doesn't decide over motion (None). 0 where none follows, or
    one moves by itself.
    """
    said = [getattr(each, "follows_source", True) for each in plugins]
    return MOMENTUM if True in said and False not in said else 0.0


def generate(
    prompt: Prompts | None = None,
    *,
    frames: int = 48,
    rate: Fraction | float = 12,
    plugins: Sequence[object] = (),
    model: str | Path | Model | None = None,
    negative_prompt: str = "",
    scheduler: str = "ddim",
    num_inference_steps: int = 20,
    guidance_scale: float = 5.0,
    noise: str = "orbit",
    momentum: float = 0.98,
    divergence: float = 0.02,
    size: tuple[int, int] | None = None,
    chunk_size: int | None = None,
    seed: int = 0,
) -> Clip:
    """Return a clip made of text alone, ``frames`` frames at ``rate`` frames per second.

    As with `edit`, frames are made while the clip is iterated over, and all other settings are those of
    `edit`. ``size`` is the (height, width) of the clip. Plugins that look at a source have none here.

    Raises what `edit` raises.
    """
    _check(isinstance(frames, int) and frames >= 1, f"frames must be at least 1, and whole, not {frames}")
    _check(1 / 1001 <= rate < math.inf, f"rate must be at least 1/1001 frames per second, not {rate}")
    if isinstance(prompt, Mapping):
        late = max(prompt, default=0)
        _check(
            late < frames,
            f"the prompt at frame {late} comes after the end; the last of {frames} frames is {frames - 1}",
        )
    _check(
        size is None or (min(size) >= 1 and max(size) <= LARGEST),
        f"size must be at least 1x1 and at most {LARGEST}x{LARGEST}, not {size}",
    )
    if not isinstance(model, Model):
        model = Model.load(model or plugins_.default_model(plugins) or BUNDLED)
    height, width = size or model.native_size
    black = np.broadcast_to(np.uint8(0), (height, width, 3))  # one byte, whatever the size
    rate = Fraction(rate).limit_denominator(1001)
    clip = Clip(
        (Frame(black, index, 1) for index in range(frames)),
        width,
        height,
        rate,
        time_base=1 / rate,
        frame_count=frames,
        blank=True,
    )
    return _sampled(
        clip,
        plugins,
        model,
        (height, width),
        chunk_size,
        (),
        prompt=prompt,
        negative_prompt=negative_prompt,
        scheduler=scheduler,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        noise=noise,
        momentum=momentum,
        divergence=divergence,
        flow_momentum=0.0,  # there is no source, and so no motion, to go along with
        seed=seed,
    )


def _sampled(
    clip: Clip,
    plugins: Sequence[object],
    model: str | Path | Model | None,
    size: tuple[int, int] | None,
    chunk_size: int | None,
    cuts: Cuts,
    **settings: Any,
) -> Clip:
    """Check everything, and return the clip whose frames are to be made of those of ``clip``."""
    for name, low, high, beside in (
        ("momentum", 0, 1, ""),
        ("divergence", 0, MAX_DIVERGENCE, " (the square root of e)"),
        ("flow_momentum", 0, 1, ""),
    ):
        value = settings[name]
        _check(low <= value <= high, f"{name} must be {low} to {high:.5g}{beside}, not {value}")
    steps, scale, seed = (settings[each] for each in ("num_inference_steps", "guidance_scale", "seed"))
    _check(steps >= 1, f"steps must be at least 1, not {steps}")
    _check(0 <= scale < math.inf, f"guidance scale must be at least 0, not {scale}")
    _check(chunk_size is None or chunk_size >= 1, f"chunk size must be at least 1, not {chunk_size}")
    _check(
        cuts == "auto" or (not isinstance(cuts, str) and all(0 <= time < math.inf for time in cuts)),
        f"cuts must be 'auto' or times in seconds, 0 or more, not {cuts!r}",
    )
    _check(size is None or max(size) <= LARGEST, f"size must be at most {LARGEST}x{LARGEST}, not {size}")
    _check(seed >= 0, f"seed must be at least 0, not {seed}")
    for kind, known in (("scheduler", SCHEDULERS), ("noise", NOISES)):
        chosen = settings[kind]
        _check(chosen in known, f"no {kind} is called '{chosen}'; choose from {', '.join(known)}")
    for plugin in plugins:
        plugins_.check(plugin)
    hooks = plugins_.manager(plugins)
    if isinstance(prompt := settings["prompt"], Mapping):
        _check(min(prompt, default=1) == 0, "of several prompts, the first must hold from frame 0 on")
        _check(
            len(prompt) == 1 or not hooks.hook.guidance.get_hookimpls(),
            "several prompts don't go with a plugin that has a guidance of its own; give one prompt",
        )
    if not isinstance(model, Model):
        model = Model.load(model or plugins_.default_model(plugins) or BUNDLED)
    smallest = model.multiple
    _check(
        size is None or clip.blank or min(size) >= smallest,
        f"size must be at least {smallest}x{smallest} for {model.name}",
    )
    fit = Fit.into(
        (clip.height, clip.width), size or model.native_size, model.multiple, clip.sample_aspect_ratio
    )
    asked = {**settings, "chunk_size": chunk_size, "cuts": cuts}
    asked["plugins"] = {plugins_.name_of(each): _options(each) for each in plugins}
    scan = Scan(model, hooks, clip, **settings)
    return replace(clip, frames=Sampled(clip, scan, fit, chunk_size, cuts, asked), blank=False)


def _options(plugin: object) -> dict[str, Any]:
    """The plugin's options; where one names a file, also by what that is known again."""
    values = {each.name: getattr(plugin, each.name) for each in plugins_.options(type(plugin))}
    files = {
        name: value for name, value in values.items() if isinstance(value, str) and Path(value).is_file()
    }
    return values | {f"{name}'s file": fingerprint([Path(value)]) for name, value in files.items()}


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise UsageError(message)


class Sampled:
    """The frames of a clip, each chunk of them made as its first is asked for.

    ``index`` frames are made, and ``carry`` is what those after them must know. ``chunk_size`` None is
    chosen from the memory that there is, at the first frame, and becomes less should it run out.
    ``asked`` is what `edit` or `generate` was called with.
    """

    def __init__(
        self,
        clip: Clip,
        scan: Scan,
        fit: Fit,
        chunk_size: int | None,
        cuts: Cuts,
        asked: Mapping[str, Any],
    ) -> None:
        self.clip = clip
        self.scan = scan
        self.fit = fit
        self.chunk_size = chunk_size
        self.cuts = cuts
        self.asked = asked
        self.index = 0
        self.carry = Carry()

    def __iter__(self) -> Iterator[Frame]:
        marked = islice(shots(self.clip, self.cuts), self.index, None)
        for first, shot in groupby(marked, key=itemgetter(0)):
            if first == self.index:  # nothing of another shot may be seen in this one
                self.carry = Carry()
            frames: Iterator[Frame] = (frame for _, frame in shot)
            while group := list(islice(frames, self.chunk_size or MOST)):
                chunk = chunk_of(self.clip, group, self.index, self.fit)
                made = self._made(chunk, group)
                if made is None:
                    frames = chain(group, frames)
                    continue
                self.carry, pixels = made
                self.index += len(group)
                for frame, image in zip(group, finished(chunk, pixels), strict=True):
                    yield frame._replace(image=image)
        self.scan.hook.finish(frames=self.index)

    def beginning(self, index: int, frame: Frame) -> Frame:
        """Return what becomes of ``frame``, the clip's ``index``-th, which begins a shot."""
        alone = copy(self)
        alone.index, alone.carry, alone.chunk_size = index, Carry(), 1
        chunk = chunk_of(self.clip, [frame], index, self.fit)
        while (made := alone._made(chunk, [frame])) is None:
            pass
        (image,) = finished(chunk, made[1])
        return frame._replace(image=image)

    def describe(self) -> dict[str, Any] | None:
        """Return all that the frames depend on, for JSON; None if its source is not to be known again."""
        clip, model = self.clip, self.scan.model
        if clip.source is None and not clip.blank:
            return None
        prompts = {str(index): prompt for index, prompt in self.scan.prompts.items()}
        pattern = Pattern.of(clip.source) if clip.source else None
        files = [pattern.path(each) for each in pattern.numbers()] if pattern else [clip.source]
        return {
            **self.asked,
            "prompt": prompts if len(prompts) > 1 else prompts["0"],
            "size": list(self.fit.padded),
            "model": model.name,
            "weights": self.scan.weights(),
            "dtype": str(model.dtype),
            "device": model.device.type,
            "torch": torch.__version__,
            "source": fingerprint([file for file in files if file]),
            "start": clip.start,
            "end": clip.end,
            "frames": clip.frame_count,
        }

    def fitting(self, frames: Sequence[Frame]) -> int:
        """Return how many frames there is memory for at once, and have the carry where there is some for it.

        frames: the next ones, of which a few are tried.
        """
        scan = self.scan
        device = scan.model.device

        def rehearse(count: int) -> tuple[int | None, int]:
            return scan.rehearse(chunk_of(self.clip, frames[:count], self.index, self.fit))

        room = int(SHARE * free(device))
        one, carry = rehearse(1)
        if one is None:
            return MOST
        if device.type == "cuda" and one + 2 * carry > room:
            scan.carry_on_host = True
        else:
            room -= 2 * carry  # this chunk's, and that which grows for the next one
        size = MOST
        if one * MOST > room:  # the first time takes more, since much is made ready then
            (one, _), (two, _) = rehearse(1), rehearse(2)
            assert one is not None and two is not None
            further = two - one if len(frames) > 1 else one
            size = max(1, min(MOST, 1 + (room - one) // max(1, further)))
        log.info(
            "%d frames at once: one takes %.0f MB, of %.0f MB beside the carry, which takes %.1f MB %s",
            *(size, one / 1e6, room / 1e6, carry / 1e6),
            "in host memory" if scan.carry_on_host else f"on {device}",
        )
        return size

    def _made(self, chunk: Chunk, frames: Sequence[Frame]) -> tuple[Carry, torch.Tensor] | None:
        """Return what the next chunk needs and the pixels of this one, which has these ``frames``.

        None if it is to be tried again, in chunks of another size or with more room.
        """
        try:
            if self.chunk_size is None:
                self.chunk_size = self.fitting(frames)
                return None
            made = self.scan(self.carry, chunk)
            bad = first_broken(made[1])
            if bad is None:
                return made
            if bad == 0:
                raise ModelError(
                    f"{self.scan.model.name} overflows at frame {chunk.index}, even in float32; "
                    "use a lower guidance scale or another model"
                )
            self.chunk_size = bad  # what comes before that frame isn't lost
        except Exception as error:
            if not is_out_of_memory(error) or not self.make_room(chunk.length):
                raise
        gc.collect()  # what is held by the error, before torch is to let go of it
        if self.scan.model.device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def make_room(self, frames: int) -> bool:
        """Move the carry to host memory, or halve chunks of ``frames`` frames; False if neither is left."""
        device = self.scan.model.device
        if device.type == "cuda" and not self.scan.carry_on_host:
            self.carry = HostCarry.of(self.carry, device)
            self.scan.carry_on_host = True
            log.info("out of memory at frame %d: from here on the carry is in host memory", self.index)
            return True
        if frames > 1:
            self.chunk_size = -(-frames // 2)
            log.info("out of memory at frame %d: from here on %d frames at once", self.index, self.chunk_size)
        return frames > 1


def first_broken(pixels: torch.Tensor) -> int | None:
    """Return which of the frames (frames, 3, height, width) is the first with NaN or infinity, or None."""
    whole: list[bool] = pixels.isfinite().flatten(1).all(1).tolist()
    return None if all(whole) else whole.index(False)


def chunk_of(clip: Clip, frames: Sequence[Frame], index: int, fit: Fit) -> Chunk:
    """Return the chunk that starts with frame ``index`` of the clip, its pixels fitted to the model."""
    times = tuple(frame.pts * clip.time_base for frame in frames)
    chunk = Chunk(index, len(frames), *fit.padded, times, fit=fit)
    if not clip.blank:
        chunk.frames = [frame.image for frame in frames]
        stack = np.stack([fit.apply(image) for image in chunk.frames])  # (frames, height, width, 3)
        chunk.pixels = torch.from_numpy(stack).permute(0, 3, 1, 2).float() / 127.5 - 1
    return chunk


def finished(chunk: Chunk, pixels: torch.Tensor) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames at the source's size, with what is kept of the source in its place.

    pixels: (frames, 3, height, width) in [0, 1], what was made of ``chunk``.
    """
    assert chunk.fit is not None
    for index, image in enumerate(to_images(pixels)):
        image = chunk.fit.undo(image)
        if chunk.kept is not None:
            assert chunk.frames is not None
            mask, source = chunk.kept[index, :, :, None], chunk.frames[index]
            image = (mask * source + (1 - mask) * image).round().astype(np.uint8)
        yield image


def to_images(pixels: torch.Tensor) -> NDArray[np.uint8]:
    """(frames, 3, height, width) in [0, 1] -> (frames, height, width, 3) uint8."""
    return (pixels * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
