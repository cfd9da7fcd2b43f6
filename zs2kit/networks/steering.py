"""ControlNets of transformers: what they are called with, and what the transformer gets from them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any

import torch
from torch.nn.functional import pad

from zs2kit.networks.base import MASK, Encode, Side
from zs2kit.quiet import quiet

# A ControlNet's class -> the arguments of the transformer that take what it returns
RESIDUALS = {
    "SD3ControlNetModel": ("block_controlnet_hidden_states",),
    "FluxControlNetModel": ("controlnet_block_samples", "controlnet_single_block_samples"),
    "QwenImageControlNetModel": ("controlnet_block_samples",),
    "ZImageControlNetModel": ("controlnet_block_samples",),
}
# Entries of configs that a ControlNet has in common with its transformer
COMMON = (
    "in_channels",
    "attention_head_dim",
    "num_attention_heads",
    "joint_attention_dim",
    "pooled_projection_dim",
    "dim",
)


def adopt(controlnet: Any, transformer: Any) -> None:
    """Give a ControlNet what it shares with the transformer; weights are shared, modules are its own.

    A module of both would be given momentum twice.
    """
    with quiet():  # while another thread loads weights, parameters can't be set
        if type(controlnet).__name__ == "ZImageControlNetModel":
            controlnet.from_transformer(controlnet, _Twins(transformer))
        elif controlnet.config.get("use_pos_embed") is False:  # of Stable Diffusion 3.5 Large
            controlnet.pos_embed = _Twins(transformer).pos_embed


class _Twins:
    """A module whose parts are copies of another's, with the same weights."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        part = getattr(self._module, name)
        if not isinstance(part, torch.nn.Module):
            return part
        return copy.deepcopy(part, {id(each): each for each in (*part.parameters(), *part.buffers())})


def condition(
    controlnet: Any,
    maps: torch.Tensor,
    encode: Encode,
    pack: Callable[[torch.Tensor], torch.Tensor],
    shift: float,
) -> Mapping[str, Any]:
    """Return what a ControlNet is given for ``maps`` (frames, 3, height, width) in [0, 1]: their latents.

    encode: to the transformer's latents. pack: to its tokens, if it takes some. shift: how far these latents
    were shifted, for the ControlNets of Stable Diffusion 3 that weren't trained with that.
    """
    kind, dtype = type(controlnet).__name__, controlnet.dtype
    pixels = 2 * maps - 1
    if getattr(controlnet, "input_hint_block", None) is not None:  # of XLabs, for FLUX.1
        return {"controlnet_cond": pixels.to(dtype)}
    latents = encode(pixels)
    if kind == "ZImageControlNetModel":  # some take a picture to be inpainted as well, which is left empty
        empty = controlnet.config.control_in_dim - latents.shape[1]
        latents = pad(latents, (0, 0, 0, 0, 0, empty))
        return {"control_context": latents[:, :, None].to(dtype)}
    if controlnet.config.get("force_zeros_for_pooled_projection"):
        latents = latents + shift
    return {"controlnet_cond": pack(latents).to(dtype)}


class Steered:
    """In the place of a transformer: calls ControlNets first, and gives it what they return.

    guidance_scale: for a ControlNet that takes it as an input where the transformer doesn't.
    """

    def __init__(self, transformer: Any, sides: Sequence[Side], guidance_scale: float) -> None:
        self._transformer = transformer
        self._sides = sides
        self._guidance_scale = guidance_scale

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transformer, name)

    def __call__(self, **call: Any) -> Any:
        given: dict[str, list[Any]] = {}
        for side in self._sides:
            for name, residuals in self._residuals(side, call).items():
                given.setdefault(name, []).append(residuals)
        total = {name: _total(found, self._layers(name)) for name, found in given.items()}
        return self._transformer(**call, **total)

    def _residuals(self, side: Side, call: Mapping[str, Any]) -> dict[str, Any]:
        """Call a ControlNet; return what the transformer gets of it, by the names of its arguments."""
        network, kind = side.network, type(side.network).__name__
        takes = signature(type(network).forward).parameters
        inputs = {name: value for name, value in call.items() if name in takes} | dict(side.inputs)
        shown = 0
        if kind == "FluxControlNetModel":
            if (maps := inputs["controlnet_cond"]).ndim == 3:  # tokens, of the picture that is drawn
                shown = inputs["hidden_states"].shape[1] - maps.shape[1]
                inputs["hidden_states"] = inputs["hidden_states"][:, : maps.shape[1]]
                inputs["img_ids"] = inputs["img_ids"][: maps.shape[1]]
            scale = torch.full_like(inputs["timestep"], self._guidance_scale)
            guidance = scale if inputs["guidance"] is None else inputs["guidance"]
            inputs["guidance"] = guidance if network.config.guidance_embeds else None
        elif kind == "SD3ControlNetModel":
            if network.config.force_zeros_for_pooled_projection:
                inputs["pooled_projections"] = torch.zeros_like(inputs["pooled_projections"])
            if network.config.joint_attention_dim is None:
                inputs["encoder_hidden_states"] = None
        elif kind == "QwenImageControlNetModel":
            inputs["encoder_hidden_states"] = side.prompt_embeds.to(network.dtype)
            inputs["encoder_hidden_states_mask"] = side.conditions[MASK]
        found = network(**inputs)
        names = RESIDUALS[kind]
        residuals = dict(zip(names, found if isinstance(found, tuple) else (found,), strict=True))
        if getattr(network, "input_hint_block", None) is not None:  # meant for all layers, in turn
            residuals = {
                name: each and [each[layer % len(each)] for layer in range(self._layers(name))]
                for name, each in residuals.items()
            }
        if shown:  # pictures that are shown as further tokens, which get nothing
            residuals = {
                name: each and [pad(layer, (0, 0, 0, shown)) for layer in each]
                for name, each in residuals.items()
            }
        return {name: each for name, each in residuals.items() if each is not None}

    def _layers(self, name: str) -> int:
        """Return how many layers of the transformer an argument is for."""
        single = name == "controlnet_single_block_samples"
        blocks = getattr(
            self._transformer, "single_transformer_blocks" if single else "transformer_blocks", ()
        )
        return len(blocks)


def _total(found: Sequence[Any], layers: int) -> Any:
    """Add up the residuals of several ControlNets, each a sequence for so many layers, or a dict by layer."""
    if len(found) == 1:
        return found[0]
    if isinstance(found[0], Mapping):
        of = {layer for each in found for layer in each}
        return {layer: sum(each[layer] for each in found if layer in each) for layer in of}
    if len({len(each) for each in found}) > 1:  # each is for several layers in a row
        found = [[each[layer // -(-layers // len(each))] for layer in range(layers)] for each in found]
    return [sum(each) for each in zip(*found, strict=True)]
