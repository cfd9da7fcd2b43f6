"""Guidance: how often a step calls the network, with which prompts, and how the predictions are weighted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from zs2kit.clip import Chunk
from zs2kit.errors import UsageError
from zs2kit.model import Model
from zs2kit.networks.base import Branch, Embeds
from zs2kit.settings import Settings


def classifier_free(model: Model, settings: Settings, chunk: Chunk) -> list[Branch]:
    """Return the branches of classifier-free guidance: weight s with the prompt, 1 - s without it.

    There is only one branch, with the prompt, at a scale of 1, or of 0, by which the makers of distilled
    models mean no guidance; and for a model that takes the scale as an input, or none at all.
    """
    scale, guided = settings.guidance_scale, model.network.guided
    embeds, negative = _embeds(model, settings, chunk)
    if guided == "embedded":
        return [Branch("text", 1.0, *embeds, guidance_scale=scale)]
    if guided == "none" or scale in (0, 1):
        return [Branch("text", 1.0, *embeds)]
    return [Branch("negative", 1 - scale, *negative, conditional=False), Branch("text", scale, *embeds)]


def check(model: Model, settings: Settings) -> None:
    """Raise `UsageError` for settings of classifier-free guidance that the model has no use for."""
    guided = model.network.guided
    if guided == "none" and settings.guidance_scale not in (0, 1):
        raise UsageError(
            f"{model.name} was distilled to need no guidance, so `guidance_scale` can't be "
            f"{settings.guidance_scale:g}",
            "leave it out",
        )
    if guided != "cfg" and settings.negative_prompt:
        raise UsageError(
            f"{model.name} was distilled, and has no use for `negative_prompt`", "say it in the prompt"
        )


def _embeds(model: Model, settings: Settings, chunk: Chunk) -> tuple[Embeds, Embeds]:
    """Embed the prompts for this chunk's frames; between two prompts, their embeddings are mixed."""
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
    """Return the weights (frames, keys) of linear interpolation between the frames ``keys``, which rise.

    Frames before the first key have only the first one's value, frames after the last only the last one's.
    """
    positions = np.arange(frames.start, frames.stop)
    return torch.from_numpy(np.stack([np.interp(positions, keys, row) for row in np.eye(len(keys))], axis=1))


def _mixed(weights: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """(frames, keys), (keys, ...) -> (frames, ...)."""
    mixed: torch.Tensor = torch.tensordot(weights.to(values), values, dims=1)
    return mixed
