"""Diffuse: pictures drawn anew at four times the size, by Stable Diffusion's x4 upscaler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from zs2kit.carry import Carry
from zs2kit.clip import Chunk, Clip, Fit, resized
from zs2kit.errors import ModelError, UsageError
from zs2kit.filters.base import Passage
from zs2kit.filters.upscale import Enlarge
from zs2kit.hookspecs import hookimpl
from zs2kit.model import Model
from zs2kit.motion import MOMENTUM
from zs2kit.networks.base import DenoiserInputs
from zs2kit.networks.hub import CHECKPOINT, folder_with
from zs2kit.noise import MAX_DIVERGENCE, make_noise
from zs2kit.plugins import Plugin, manager, name_of
from zs2kit.scan import Broken, Scan, to_images
from zs2kit.settings import MODEL, Settings, option

TIMES = 4  # how much larger its pictures are


@dataclass(eq=False)
class Diffuse(Enlarge):
    """Draws pictures anew at four times the size, with details as the prompt says.

    The model is Stable Diffusion's x4 upscaler. It sees the small picture with a little noise, and is sampled
    like an edit: with dependency noise, temporal momentum and flow momentum, so that the details that it adds
    don't flicker. It needs a GPU with a lot of memory, since the latents are as large as the small picture.
    """

    model: str = option(
        "stabilityai/stable-diffusion-x4-upscaler",
        "Folder or hub name of an x4 upscaler in diffusers' format.",
        kind=MODEL,
    )
    prompt: str = option("", "What the clip shows.")
    negative_prompt: str = option("", "What it should not show.")
    noise_level: int = option(
        20,
        "How much noise the small pictures get, from 0: the more, the more the result differs from them.",
        minimum=0,
    )
    num_inference_steps: int = option(20, "The number of denoising steps.", minimum=1)
    guidance_scale: float = option(9.0, "How strongly the prompt acts; 1 is without guidance.", minimum=0)
    momentum: float = option(0.98, "Temporal momentum: 0 draws each frame by itself.", minimum=0, maximum=1)
    divergence: float = option(
        0.01,
        "How much the noise of neighbouring frames differs, from 0 to 1.65, where it isn't related at all.",
        minimum=0,
        maximum=MAX_DIVERGENCE,
    )
    flow_momentum: float = option(
        MOMENTUM, "How strongly frames are averaged along the clip's motion.", minimum=0, maximum=1
    )
    seed: int = option(0, "Which noise is drawn.", minimum=0)

    def check(self, clip: Clip) -> None:
        """See `Filter`."""
        super().check(clip)
        folder_with(self.model, ["model_index.json"], f"{name_of(self)}.model", further=CHECKPOINT)

    def prepare(self, clip: Clip) -> None:
        """See `Filter`."""
        super().prepare(clip)
        model = Model.load(self.model, device=str(self.device), dtype=str(self.dtype).removeprefix("torch."))
        most = getattr(model.pipeline.config, "max_noise_level", None)
        if most is None or model.vae_scale != TIMES or model.network.channels != model.latent_channels + 3:
            raise ModelError(
                f"{self.model} is not an x4 upscaler", "use stabilityai/stable-diffusion-x4-upscaler"
            )
        if self.noise_level > most:
            raise UsageError(f"`{name_of(self)}.noise_level` is at most {most} with {self.model}")
        settings = Settings(
            prompt=self.prompt,
            negative_prompt=self.negative_prompt,
            scheduler=model.network.scheduler,  # type: ignore[arg-type]
            num_inference_steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
            momentum=self.momentum,
            noise="dependency",
            divergence=self.divergence,
            flow_momentum=self.flow_momentum,
            seed=self.seed,
        )
        self._scan = Scan(
            model, manager([_Beside(self.noise_level, self.divergence, self.seed)]), clip, settings
        )

    def run(self, passage: Passage, carry: Carry) -> torch.Tensor:
        """See `Filter`."""
        scan, (frames, _, height, width) = self._scan, passage.pixels.shape
        fit = Fit.into((height, width), (height, width), scan.model.network.multiple)
        images = [fit.apply(image) for image in to_images(passage.pixels)]
        large = fit.padded[0] * TIMES, fit.padded[1] * TIMES
        first = int(carry.pop("frames", torch.tensor(0)))  # a shot is drawn as if it were alone
        fitted = np.stack([resized(image, large) for image in images])
        drawn = scan(carry, Chunk(first, frames, *large, frames=images, fitted=fitted))
        if isinstance(drawn, Broken):
            raise ModelError(
                f"{self.model} overflows at frame {passage.index + drawn.frame}, even in float32",
                f"use a lower `{name_of(self)}.guidance_scale`",
            )
        carry.clear()
        carry.update(drawn.carry, frames=torch.tensor(first + frames))
        top, left = (TIMES * each for each in fit.offset)
        pixels: torch.Tensor = drawn.pixels[..., top : top + height * TIMES, left : left + width * TIMES]
        return pixels.cpu()


@dataclass(eq=False)
class _Beside(Plugin):
    """Gives the network the small pictures in addition to the latents, and says how noisy they are."""

    noise_level: int = option(20, "As in `Diffuse`.")
    divergence: float = option(0.01, "As in `Diffuse`.")
    seed: int = option(0, "As in `Diffuse`.")

    @hookimpl
    def prepare(
        self, chunk: Chunk, model: Model, carry: Mapping[str, torch.Tensor]
    ) -> Mapping[str, torch.Tensor]:
        assert chunk.frames is not None
        small = torch.from_numpy(np.stack(chunk.frames)).permute(0, 3, 1, 2).float() / 127.5 - 1
        shape, before = (3, *small.shape[2:]), carry.get("diffuse/small")
        noise, last = make_noise(
            "dependency", shape, chunk.indices, self.divergence, self.seed, before, purpose="small"
        )
        level = torch.tensor([self.noise_level])
        self._pictures: torch.Tensor = model.pipeline.low_res_scheduler.add_noise(small, noise, level)
        self._level = level.to(model.device)
        return {"diffuse/small": last}

    @hookimpl
    def channels(self) -> torch.Tensor:
        return self._pictures

    @hookimpl
    def denoiser_inputs(self) -> DenoiserInputs:
        return DenoiserInputs(conditions={"class_labels": self._level})
