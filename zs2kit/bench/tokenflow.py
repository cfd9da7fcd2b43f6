"""TokenFlow (Geyer et al. 2023), as small as it can be: a strong editor that needs no training.

In each step one of every eight frames is drawn as a keyframe. Keyframes attend to all keyframes jointly; the
other frames don't attend to anything: each of their tokens is given what came out for the tokens most like it
in the keyframes before and after, mixed by how near those are. What is alike is found among the denoiser's
own tokens of the source, noised to the same step; the paper inverts the source for that. As in all methods
here, structure comes from the pose ControlNet, where the paper injects features.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor2_0

from zs2kit.bench.baselines import BATCH, GUIDANCE, attention, controlnet, initial_noise, skeletons
from zs2kit.bench.cases import Case, source_images
from zs2kit.model import Model
from zs2kit.networks.base import per_frame
from zs2kit.puppets.yardsticks import Images
from zs2kit.scan import to_images
from zs2kit.schedule import make_scheduler


class TokenFlow:
    """What the attention layers share in one step: the keyframes, and where each token is to be had from."""

    def __init__(self, frames: int, seed: int) -> None:
        self.frames = frames
        self.rng = np.random.default_rng(seed)
        self.looks = False  # at the source
        self.matches: dict[
            str, torch.Tensor
        ] = {}  # layer -> (2, frames, tokens): in the keyframe before, after
        self.begin_step()

    def begin_step(self) -> None:
        """Draw the step's keyframes."""
        first = int(self.rng.integers(min(BATCH, self.frames)))
        keys = np.arange(first, self.frames, BATCH)
        after = np.searchsorted(keys, np.arange(self.frames)).clip(max=len(keys) - 1)
        before = np.searchsorted(keys, np.arange(self.frames), side="right").clip(min=1) - 1
        way = (np.arange(self.frames) - keys[before]) / np.maximum(keys[after] - keys[before], 1)
        self.keys = torch.from_numpy(keys)
        self.sides = torch.from_numpy(np.stack([before, after]))  # (2, frames), numbers of keyframes
        self.way = torch.from_numpy(way.clip(0, 1)).float()[:, None, None]  # from the one to the other


class TokenFlowProcessor:
    """Joint attention of the keyframes, propagated to all frames."""

    def __init__(self, layer: str, flow: TokenFlow) -> None:
        self.layer = layer
        self.flow = flow
        self.inner = AttnProcessor2_0()

    def __call__(self, attn: Any, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """(frames, tokens, channels) -> the same shape."""
        flow = self.flow
        if flow.looks:
            unit = torch.nn.functional.normalize(hidden_states.float(), dim=-1)
            keyframes = unit[flow.keys]
            flow.matches[self.layer] = torch.stack(
                [(unit @ keyframes[side].transpose(1, 2)).argmax(dim=-1) for side in flow.sides]
            )
            return self.inner(attn, hidden_states)  # type: ignore[no-any-return]
        keyframes = hidden_states[flow.keys]
        joint = keyframes.flatten(0, 1).expand(len(keyframes), -1, -1)
        attended = self.inner(attn, keyframes, joint)  # (keyframes, tokens, channels)
        before, after = (
            attended[side].gather(1, match[..., None].expand_as(hidden_states))
            for side, match in zip(flow.sides, flow.matches[self.layer], strict=True)
        )
        return torch.lerp(before, after, flow.way.to(before))


@torch.no_grad()
def token_flow(model: Model, case: Case, steps: int, *, edited: bool) -> Images:
    """Edit a case's source."""
    text, empty = (each.prompt_embeds for each in model.embed(case.prompt, "", case.side, case.side))
    text, empty = per_frame(text, case.frames), per_frame(empty, case.frames)
    maps, noise = skeletons(model, case), initial_noise(model, case, shared=True)
    source = torch.from_numpy(source_images(case)).permute(0, 3, 1, 2).float() / 127.5 - 1
    source = model.encode(source)
    scheduler = make_scheduler("ddim", model.pipeline.scheduler.config, steps)
    flow = TokenFlow(case.frames, case.seed)
    latents = noise
    with attention([model.unet], lambda layer: TokenFlowProcessor(layer, flow)):
        for t in scheduler.timesteps:
            flow.begin_step()
            flow.looks = True
            model.unet(scheduler.add_noise(source, noise, t[None]), t, empty)
            flow.looks = False
            predicted = []
            for embeds in (empty, text):
                down, mid = controlnet(model)(latents, t, embeds, maps, return_dict=False)
                predicted.append(
                    model.unet(
                        latents,
                        t,
                        embeds,
                        down_block_additional_residuals=down,
                        mid_block_additional_residual=mid,
                        return_dict=False,
                    )[0]
                )
            without, with_ = predicted
            latents = scheduler.step(torch.lerp(without, with_, GUIDANCE), t, latents, return_dict=False)[0]
    return to_images(model.decode(latents))
