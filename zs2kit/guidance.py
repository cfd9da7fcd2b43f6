"""Guidance: which calls of the network are made in a step, with which prompts, and how they are weighed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from zs2kit.clip import Chunk
from zs2kit.model import Model
from zs2kit.networks.base import Branch, Embeds
from zs2kit.settings import Settings


def classifier_free(model: Model, settings: Settings, chunk: Chunk) -> list[Branch]:
    """Return the branches of classifier-free guidance: s times with the prompt, 1 - s times without it.

    At a scale of 1, and for a distilled model, which takes the scale as an input, that is one branch.
    """
    scale = settings.guidance_scale
    embeds, negative = _embeds(model, settings, chunk)
    if model.network.guided == "embedded":
        return [Branch("text", 1.0, *embeds, timestep_cond=model.network.embedded_guidance(scale))]
    text = Branch("text", scale, *embeds)
    return [text] if scale == 1 else [Branch("negative", 1 - scale, *negative, conditional=False), text]


def _embeds(model: Model, settings: Settings, chunk: Chunk) -> tuple[Embeds, Embeds]:
    """The prompts as this chunk's frames see them: between two of them, something in between."""
    prompts = settings.prompts
    embedded = [
        model.embed(prompt, settings.negative_prompt, chunk.height, chunk.width)
        for prompt in prompts.values()
    ]
    text, negative = embedded[0]
    if len(embedded) == 1:
        return text, negative
    weights = interpolation(list(prompts), chunk.indices).to(model.device)
    embeds = torch.cat([each.prompt_embeds for each, _ in embedded])
    conditions = {
        name: _mixed(weights, torch.cat([each.conditions[name] for each, _ in embedded]))
        for name in text.conditions
    }
    return Embeds(_mixed(weights, embeds), conditions), negative


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
