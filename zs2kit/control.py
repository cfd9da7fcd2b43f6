"""Control: what plugins that steer the sampler with a ControlNet have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zs2kit.errors import ModelError, UsageError
from zs2kit.hookspecs import hookimpl
from zs2kit.networks.base import DenoiserInputs, per_frame
from zs2kit.plugins import Plugin, name_of
from zs2kit.settings import MODEL, option

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from zs2kit.clip import Chunk, Clip
    from zs2kit.denoiser import Denoiser
    from zs2kit.model import Model
    from zs2kit.networks.base import Branch
    from zs2kit.schedule import Step


@dataclass(eq=False)
class Control(Plugin):
    """A plugin that steers with a ControlNet, by maps that are detected in the source.

    A subclass says which ControlNet it uses by default (`controlnet`) and finds the maps (`detect`). It may
    load its detector in `load_detector`.
    """

    model: str | None = option(
        None,
        "The ControlNet: a folder, a .safetensors file, a hub name, or the name of one inside the "
        "checkpoint, such as controlnet_pose. none means the plugin's own choice, if it has one.",
        kind=MODEL,
    )
    scale: float = option(1.0, "How strongly the maps steer; 0 means not at all.", minimum=0)
    start: float = option(
        0.0, "The fraction of the steps after which the maps start to steer.", minimum=0, maximum=1
    )
    end: float = option(
        1.0, "The fraction of the steps after which the maps stop steering.", minimum=0, maximum=1
    )

    def controlnet(self, model: Model) -> str | Path:
        """Return the folder or hub name of the ControlNet for ``model``, if the user names none."""
        raise TypeError(f"{type(self).__name__} doesn't say which ControlNet it uses")

    def usual(self, model: Model, by_family: Mapping[str, str]) -> str:
        """Return what of ``by_family`` is for the model's family; `ModelError` if none is."""
        if model.family in by_family:
            return by_family[model.family or ""]
        raise ModelError(
            f"{name_of(self)} has no default ControlNet for models like {model.name}",
            f"name one: `{name_of(self)}.model`",
        )

    def load_detector(self, model: Model, clip: Clip) -> None:
        """Load what `detect` needs; called once per edit, with the clip that is edited."""

    def detect(self, images: NDArray[np.uint8], chunk: Chunk) -> NDArray[np.uint8]:
        """Return the maps (frames, height, width, 3) for RGB ``images`` of the same shape."""
        raise TypeError(f"{type(self).__name__} doesn't say how its maps are made")

    @hookimpl
    def setup(self, model: Model, denoiser: Denoiser, clip: Clip) -> None:
        from diffusers import ControlNetModel

        from zs2kit.networks.controlnet import Embedded

        if self.start >= self.end:
            name = name_of(self)
            raise UsageError(
                f"`{name}.start` must be before `{name}.end`, but they are {self.start:g} and {self.end:g}"
            )
        if self.scale == 0:
            return
        model.unet  # noqa: B018  # raises an error if it has none, before anything is fetched
        where = self.model or self.controlnet(model)
        where = model.bundled(str(where)) or where
        option = f"{name_of(self)}.model"
        if Path(where).suffix == ".safetensors":
            self._network: Any = model.load_controlnet(where, option=option)
            self.load_detector(model, clip)
        else:
            # Before gigabytes of weights are fetched
            _check_family(where, model.load_config(ControlNetModel, where, option=option), model)
            self.load_detector(model, clip)
            self._network = model.load_network(ControlNetModel, where, option=option)
        self._network.controlnet_cond_embedding = Embedded(self._network)
        denoiser.attach(name_of(self), self._network)

    @hookimpl
    def prepare(self, chunk: Chunk, model: Model) -> None:
        import torch

        if self.scale == 0:
            return
        maps = torch.from_numpy(self.detect(chunk.images, chunk)).permute(0, 3, 1, 2)
        maps = maps.to(model.device, model.dtype) / 255
        self._maps = self._network.controlnet_cond_embedding.embed(maps)

    @hookimpl
    def denoiser_inputs(self, step: Step, branch: Branch, latents: torch.Tensor) -> DenoiserInputs | None:
        # The same bounds as in StableDiffusionControlNetPipeline.
        acts = self.start <= step.index / step.count and (step.index + 1) / step.count <= self.end
        if self.scale == 0 or not acts:
            return None
        # As in that pipeline: a ControlNet that only sums a picture up, such as the one for shuffle, steers
        # nothing but the conditional branch.
        if self._network.config.global_pool_conditions and not branch.conditional:
            return None
        frames = len(latents)
        conditions = {name: per_frame(value, frames) for name, value in branch.conditions.items()}
        return DenoiserInputs(
            network=self._network,
            inputs={
                "encoder_hidden_states": per_frame(branch.prompt_embeds, frames),
                "controlnet_cond": self._maps,
                "conditioning_scale": self.scale,
                "added_cond_kwargs": conditions or None,
            },
        )


def _check_family(where: str | Path, config: Mapping[str, Any], model: Model) -> None:
    """Raise `ModelError` if a network with this config is no ControlNet for ``model``."""
    kind = config.get("_class_name", "ControlNetModel")
    if kind != "ControlNetModel":
        raise ModelError(f"{where} is a {kind}", "give a ControlNet (a ControlNetModel of diffusers)")
    ours = {"in_channels": model.latent_channels}
    for name in ("cross_attention_dim", "in_channels", "block_out_channels"):
        expected = ours.get(name, model.unet.config[name])
        if _plain(config.get(name, expected)) != _plain(expected):
            raise ModelError(
                f"{where} was made for another family of models than {model.name} "
                f"({name} {_plain(config[name])}, not {_plain(expected)})",
                "choose a ControlNet for this one",
            )


def _plain(value: Any) -> Any:
    """Make a tuple a list: a config's entry is a list when it comes from a file, else perhaps a tuple."""
    return list(value) if isinstance(value, tuple) else value
