"""ControlNets in one file, as most programs have them. What the file doesn't say, the U-Net does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import ControlNetModel
from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint
from safetensors.torch import load_file

from zs2kit.errors import ModelError
from zs2kit.networks.files import CONTROLNET, keys_in, kind_of, of_another_kind


class Embedded(torch.nn.Module):
    """In the place of a ControlNet's layers for maps: the maps that it is given are embedded already.

    They are the same in all steps and branches of a chunk, so `embed` is called once.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.embedding = network.controlnet_cond_embedding
        self.flipped = network.config.controlnet_conditioning_channel_order == "bgr"

    @torch.no_grad()
    def embed(self, maps: torch.Tensor) -> torch.Tensor:
        """Maps (frames, 3, height, width) in [0, 1] -> what `forward` takes."""
        embedded: torch.Tensor = self.embedding(maps.flip(1) if self.flipped else maps)
        return embedded

    def forward(self, embedded: torch.Tensor) -> torch.Tensor:
        """Return what is given, in its own order of channels: a network for BGR has turned it round."""
        return embedded.flip(1) if self.flipped else embedded


def controlnet_from_file(name: str | Path, file: Path, model: str, unet: Any, channels: int) -> Any:
    """Return the ControlNet in a .safetensors ``file`` for a U-Net whose latents have so many ``channels``.

    name, model: of the file and of the U-Net's model, for messages. Raises `ModelError` if the file has no
    ControlNet, or one for another family of models.
    """
    keys = keys_in(file)
    # The first ControlNets came in one file with the whole checkpoint.
    if kind_of(keys) is not CONTROLNET and not any(key.startswith("control_model.") for key in keys):
        raise of_another_kind(name, keys, CONTROLNET)
    try:
        weights = convert_controlnet_checkpoint(load_file(file), unet.config)
        network = _empty(unet, channels, weights, pooled="shuffle" in file.stem)
        network.load_state_dict(weights, assign=True)
    except (AttributeError, KeyError, RuntimeError) as error:  # other layers, or layers of other shapes
        raise ModelError(
            f"{name} was made for another family of models than {model}", "choose a ControlNet for this one"
        ) from error
    return network


def _empty(unet: Any, channels: int, weights: dict[str, torch.Tensor], *, pooled: bool) -> Any:
    """A ControlNet for ``unet`` with layers like those in ``weights``, but no weights of its own.

    pooled: whether it sums its maps up, which no file tells; of those in use only the one for shuffle does.
    """
    embedding = "controlnet_cond_embedding"
    blocks = sum(key.startswith(f"{embedding}.blocks") and key.endswith("weight") for key in weights)
    widths = [f"{embedding}.conv_in", *(f"{embedding}.blocks.{index}" for index in range(1, blocks, 2))]
    with init_empty_weights():
        alike = ControlNetModel.from_unet(
            unet,
            load_weights_from_unet=False,
            conditioning_embedding_out_channels=tuple(len(weights[f"{each}.weight"]) for each in widths),
        )
        return ControlNetModel.from_config(alike.config, in_channels=channels, global_pool_conditions=pooled)
