"""Guidance: with which prompts a step calls the network, and how the predictions are weighted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import pad

from zs2kit.clip import Chunk
from zs2kit.errors import UsageError, notify
from zs2kit.model import Model
from zs2kit.networks.base import MASK, Branch, Embeds
from zs2kit.schedule import Step
from zs2kit.settings import Settings


def classifier_free(model: Model, settings: Settings, chunk: Chunk) -> list[Branch]:
    """Return the branches of classifier-free guidance for the prompts of this chunk's frames."""
    prompts = settings.prompts
    embedded = [
        model.embed(prompt, settings.negative_prompt, chunk.height, chunk.width)
        for prompt in prompts.values()
    ]
    *others, branch = branches_of(model, settings.guidance_scale, *embedded[0])
    if len(prompts) > 1:
        along = _of_one_length([text for text, _ in embedded])
        branch = Turning(**vars(branch), prompts=along, positions=positions(list(prompts), chunk.indices))
    return [*others, branch]


def branches_of(model: Model, scale: float, text: Embeds, negative: Embeds) -> list[Branch]:
    """Return the branches of guidance by ``scale`` s: weight s with the prompt, 1 - s without it.

    There is only one branch, the one with the prompt, if the scale is 1 or less, which means no guidance (as
    in diffusers), and if the model takes the scale as an input or takes none at all. Some families count the
    scale from 0, so there it is lower by 1. The branch with the prompt is the last.
    """
    guided = model.network.guided
    weight = scale + (1 - model.network.unguided)
    free = guided == "cfg" and weight > 1
    branch = Branch("text", weight if free else 1.0, *text, scale if guided == "embedded" else None)
    return [Branch("negative", 1 - weight, *negative, conditional=False), branch] if free else [branch]


def scale_of(model: Model, branches: Sequence[Branch]) -> float:
    """Return the guidance scale that `branches_of` made ``branches`` for; without guidance, `unguided`."""
    branch = branches[-1]
    return (
        branch.weight - 1 + model.network.unguided if branch.guidance_scale is None else branch.guidance_scale
    )


def check(model: Model, settings: Settings) -> None:
    """Raise `UsageError` for guidance settings that are of no use for the model.

    Sends a notice if a negative prompt has no effect, since there is no guidance.
    """
    guided, unguided = model.network.guided, model.network.unguided
    if guided == "none" and settings.guidance_scale > unguided:
        raise UsageError(
            f"{model.name} was distilled to need no guidance, so `guidance_scale` can't be "
            f"{settings.guidance_scale:g}",
            "leave it out",
        )
    if guided != "cfg" and settings.negative_prompt:
        raise UsageError(
            f"{model.name} was distilled, and has no use for `negative_prompt`", "say it in the prompt"
        )
    if settings.negative_prompt and settings.guidance_scale <= unguided:
        notify(
            "no-guidance",
            "`negative_prompt` has no effect, since a guidance scale of "
            f"{settings.guidance_scale:g} means no guidance",
            f"leave it out, or give a `guidance_scale` above {unguided:g}",
        )


def _of_one_length(prompts: Sequence[Embeds]) -> list[Embeds]:
    """Pad prompts at their ends to the length of the longest; their masks leave out the padding."""
    longest = max(each.prompt_embeds.shape[1] for each in prompts)
    padded = []
    for embeds, conditions in prompts:
        if more := longest - embeds.shape[1]:
            embeds = pad(embeds, (0, 0, 0, more))
            conditions = {**conditions, MASK: pad(conditions[MASK], (0, more))}
        padded.append(Embeds(embeds, conditions))
    return padded


@dataclass(eq=False)
class Turning(Branch):
    """A branch of several prompts, each of which turns into the next.

    A frame between two prompts takes its first steps with the earlier prompt and the rest with the later one;
    the nearer it is to the later one, the more. So each call of the network is given a prompt that somebody
    wrote. A mix of two embeddings might mean something else, such as a third colour.

    prompts: all prompts, embedded.
    positions: (frames,), where each of the chunk's frames is among the prompts; 1.25 is a quarter of the way
    from prompt 1 to prompt 2.
    """

    prompts: Sequence[Embeds] = ()
    positions: NDArray[np.float64] = field(default_factory=lambda: np.zeros(1))

    def __post_init__(self) -> None:
        self._known: dict[tuple[int, ...], Branch] = {}

    def at(self, step: Step) -> Branch:
        """Return the branch of a step."""
        done = (step.index + 0.5) / step.count
        chosen = tuple(np.floor(self.positions + done).astype(int).tolist())
        if chosen not in self._known:
            embeds = torch.cat([self.prompts[each].prompt_embeds for each in chosen])
            conditions = {
                name: torch.cat([self.prompts[each].conditions[name] for each in chosen])
                for name in self.conditions
            }
            self._known[chosen] = Branch(
                self.name, self.weight, embeds, conditions, self.guidance_scale, self.conditional
            )
        return self._known[chosen]


def positions(keys: Sequence[int], frames: Sequence[int]) -> NDArray[np.float64]:
    """Return where ``frames`` lie among the frames ``keys``, which are in rising order.

    1.25 is a quarter of the way from key 1 to key 2. Frames before the first key are at 0, and frames after
    the last key are at its position.
    """
    found: NDArray[np.float64] = np.interp(np.asarray(frames), keys, np.arange(len(keys)))
    return found
