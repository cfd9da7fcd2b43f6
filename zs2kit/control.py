"""Control: the base of plugins that steer the sampler with a ControlNet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zs2kit.errors import ModelError, UsageError
from zs2kit.hookspecs import hookimpl
from zs2kit.networks.base import DenoiserInputs
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


# Families of transformers -> a ControlNet that takes poses, depth, Canny edges and soft edges alike
UNIONS = {
    "flux": "Shakker-Labs/FLUX.1-dev-ControlNet-Union-Pro-2.0",
    "qwen-image": "InstantX/Qwen-Image-ControlNet-Union",
}


@dataclass(eq=False)
class Control(Plugin):
    """A plugin that steers with a ControlNet, using maps that are detected in the source.

    A subclass says which ControlNet it uses by default (`controlnet`) and makes the maps (`detect`). It can
    load its detector in `load_detector`.
    """

    model: str | None = option(
        None,
        "The ControlNet: a folder, a .safetensors file, a hub name, or the name of one inside the "
        "checkpoint, such as controlnet_pose. With none, the plugin uses its default, if it has one.",
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
        """Return the entry of ``by_family`` for the model's family; raise `ModelError` if there is none."""
        if model.domain is not None:  # a network that was made for others can't steer so small a model
            raise ModelError(
                f"{model.name} has no ControlNet for {name_of(self)}",
                "leave the plugin out, or use `puppets`",
            )
        if model.family in by_family:
            return by_family[model.family or ""]
        raise ModelError(
            f"{name_of(self)} has no default ControlNet for models like {model.name}",
            f"name one: `{name_of(self)}.model`",
        )

    def load_detector(self, model: Model, clip: Clip) -> None:
        """Load what `detect` needs; called once per edit, with the clip to be edited."""

    def detect(self, images: NDArray[np.uint8], chunk: Chunk) -> NDArray[np.uint8]:
        """Return the maps (frames, height, width, 3) for RGB ``images`` of the same shape."""
        raise TypeError(f"{type(self).__name__} doesn't say how its maps are made")

    def kind(self) -> int | None:
        """Return the number that stands for this kind of maps in ControlNets that take several kinds.

        The numbers are those of FLUX.1's union ControlNets; None if there is none for these maps.
        """
        return None

    @hookimpl
    def setup(self, model: Model, denoiser: Denoiser, clip: Clip) -> None:
        import diffusers

        self._network: Any = None
        self._latents: torch.Tensor | None = None
        name, network = name_of(self), model.network
        if self.start >= self.end:
            raise UsageError(
                f"`{name}.start` must be before `{name}.end`, but they are {self.start:g} and {self.end:g}"
            )
        if self.scale == 0:
            return
        if network.takes_maps:
            self._check_taken(model)
            self.load_detector(model, clip)
            return
        if network.controlnet is None:
            raise ModelError(
                f"{model.name} takes no ControlNet, and {name} needs one",
                "use a model of Stable Diffusion, FLUX.1, Qwen-Image or Z-Image",
            )
        where = self.model or self.controlnet(model)
        where = model.bundled(str(where)) or where
        option = f"{name}.model"
        kinds = None
        if Path(where).suffix == ".safetensors":
            self.check_kind(where, kinds)
            controlnet = model.load_controlnet(where, option=option)
            self.load_detector(model, clip)
        else:
            cls = getattr(diffusers, network.controlnet)
            # Checked before gigabytes of weights are fetched
            config = model.load_config(cls, where, option=option)
            _check_family(where, config, model)
            kinds = config.get("num_mode")
            self.check_kind(where, kinds)
            self.load_detector(model, clip)
            controlnet = model.load_network(cls, where, option=option)
        with model.lock:
            network.adopt(controlnet)
        self._network = controlnet
        self._mode = None if kinds is None else self.kind()
        denoiser.attach(name, controlnet)

    def _check_taken(self, model: Model) -> None:
        """Raise `UsageError` for options that have no effect on a model that takes maps as channels."""
        for name, value in (("model", None), ("scale", 1), ("start", 0), ("end", 1)):
            if getattr(self, name) != value:
                raise UsageError(
                    f"`{name_of(self)}.{name}` has no effect, since {model.name} takes maps without a "
                    "ControlNet, as strongly as it was trained to",
                    "leave it out",
                )

    def check_kind(self, where: str | Path, kinds: int | None) -> None:
        """Raise `UsageError` if a ControlNet for so many ``kinds`` of maps (None: one) doesn't take these."""
        kind, name = self.kind(), name_of(self)
        if kinds is not None and (kind is None or kind >= kinds):
            raise UsageError(
                f"{where} takes {kinds} kinds of maps, and {name} doesn't say which one it gives",
                f"use the plugin control, and set `control.mode`, from 0 to {kinds - 1}",
            )

    @hookimpl
    def prepare(self, chunk: Chunk, model: Model) -> None:
        import torch

        if self.scale == 0:
            return
        maps = torch.from_numpy(self.detect(chunk.images, chunk)).permute(0, 3, 1, 2)
        maps = maps.to(model.device, torch.float32) / 255
        if model.network.takes_maps:
            self._latents = model.encode(2 * maps - 1)
            return
        inputs = model.network.condition(self._network, maps, model.encode)
        if self._mode is not None:
            mode = torch.full((chunk.length, 1), self._mode, device=model.device)
            inputs = {**inputs, "controlnet_mode": mode}
        self._inputs = {**inputs, "conditioning_scale": self.scale}

    @hookimpl
    def denoiser_inputs(self, step: Step, branch: Branch, latents: torch.Tensor) -> DenoiserInputs | None:
        # The same bounds as in StableDiffusionControlNetPipeline
        acts = self.start <= step.index / step.count and (step.index + 1) / step.count <= self.end
        if self._latents is not None:
            return DenoiserInputs(channels=[self._latents])
        if self._network is None or not acts:
            return None
        # As in that pipeline, a ControlNet that pools the whole picture, such as the one for shuffle, steers
        # only the conditional branch.
        if self._network.config.get("global_pool_conditions") and not branch.conditional:
            return None
        return DenoiserInputs(network=self._network, inputs=self._inputs)


def _check_family(where: str | Path, config: Mapping[str, Any], model: Model) -> None:
    """Raise `ModelError` if a network with this config isn't a ControlNet for ``model``."""
    wanted = model.network.controlnet
    kind = config.get("_class_name", wanted)
    if kind != wanted:
        raise ModelError(f"{where} is a {kind}", f"give a ControlNet (a {wanted} of diffusers)")
    if config.get("extra_conditioning_channels") or config.get("extra_condition_channels"):
        raise ModelError(f"{where} is for inpainting", "choose a ControlNet that takes maps alone")
    for name, expected in model.network.of_controlnets.items():
        if (found := config.get(name)) is not None and _plain(found) != _plain(expected):
            raise ModelError(
                f"{where} was made for another family of models than {model.name} "
                f"({name} {_plain(found)}, not {_plain(expected)})",
                "choose a ControlNet for this one",
            )


def _plain(value: Any) -> Any:
    """Turn a tuple into a list: a config's entry is a list if it was read from a file, else maybe a tuple."""
    return list(value) if isinstance(value, tuple) else value
