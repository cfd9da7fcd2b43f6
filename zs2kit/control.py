"""Control: what plugins that steer the sampler with a ControlNet share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zs2kit.errors import ModelError, UsageError
from zs2kit.hookspecs import DenoiserInputs, hookimpl
from zs2kit.plugins import name_of, option

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from zs2kit.clip import Chunk
    from zs2kit.denoiser import Branch, Denoiser, Step
    from zs2kit.model import Model


@dataclass(eq=False)
class Control:
    """A ControlNet on maps that are detected in the source.

    A subclass says which network (`controlnet`) and what the maps are (`detect`), and may load its
    detector in `load_detector`.
    """

    scale: float = option(1.0, "How strongly the maps steer; 0 is not at all.", minimum=0)
    start: float = option(
        0.0, "Share of the steps after which the maps begin to steer.", minimum=0, maximum=1
    )
    end: float = option(1.0, "Share of the steps after which the maps cease to steer.", minimum=0, maximum=1)

    def controlnet(self, model: Model) -> str | Path:
        """Return the folder or hub name of the ControlNet for ``model``."""
        raise TypeError(f"{type(self).__name__} doesn't say which ControlNet it uses")

    def load_detector(self, model: Model) -> None:
        """Load what `detect` needs; called once per edit."""

    def detect(self, images: NDArray[np.uint8], chunk: Chunk) -> NDArray[np.uint8]:
        """Return the maps (frames, height, width, 3) for RGB ``images`` of the same shape."""
        raise TypeError(f"{type(self).__name__} doesn't say how its maps are made")

    @hookimpl
    def setup(self, model: Model, denoiser: Denoiser) -> None:
        from diffusers import ControlNetModel

        if self.start >= self.end:
            raise UsageError(
                f"{name_of(self)}: start must lie before end, but they are {self.start:g} and {self.end:g}"
            )
        if self.scale == 0:
            return
        where = self.controlnet(model)
        self._network: Any = model.load_network(ControlNetModel, where)
        for name in ("cross_attention_dim", "in_channels", "block_out_channels"):
            theirs, ours = _plain(self._network.config[name]), _plain(model.unet.config[name])
            if name == "in_channels":
                ours = model.latent_channels
            if theirs != ours:
                raise ModelError(
                    f"{where} was made for another family of models than {model.name} "
                    f"({name} {theirs}, not {ours}); choose a ControlNet for this one"
                )
        embedding = self._network.controlnet_cond_embedding
        embedding.forward = _once(embedding.forward)
        denoiser.attach(name_of(self), self._network)
        self.load_detector(model)

    @hookimpl
    def prepare(self, chunk: Chunk, model: Model) -> None:
        import torch

        if self.scale == 0:
            return
        assert chunk.pixels is not None
        images = ((chunk.pixels + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        maps = torch.from_numpy(self.detect(images, chunk)).permute(0, 3, 1, 2)
        self._maps = maps.to(model.device, model.dtype) / 255  # (frames, 3, height, width) in [0, 1]

    @hookimpl
    def denoiser_inputs(self, step: Step, branch: Branch, latents: torch.Tensor) -> DenoiserInputs | None:
        from zs2kit.denoiser import per_frame

        # The same bounds as in StableDiffusionControlNetPipeline.
        acts = self.start <= step.index / step.count and (step.index + 1) / step.count <= self.end
        if self.scale == 0 or not acts:
            return None
        frames = len(latents)
        conditions = {name: per_frame(value, frames) for name, value in branch.conditions.items()}
        down, mid = self._network(
            latents,
            step.timestep,
            encoder_hidden_states=per_frame(branch.prompt_embeds, frames),
            controlnet_cond=self._maps,
            conditioning_scale=self.scale,
            added_cond_kwargs=conditions or None,
            return_dict=False,
        )
        return DenoiserInputs(down=down, mid=mid)


def _plain(value: Any) -> Any:
    """A config's entry, which is a list where it was read from a file and may be a tuple elsewhere."""
    return list(value) if isinstance(value, tuple) else value


def _once(embed: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    """Embed the maps once a chunk: they are the same in all of its steps and branches."""
    seen: Any = None
    embedded: Any = None

    def embed_once(maps: torch.Tensor) -> torch.Tensor:
        nonlocal seen, embedded
        if maps is not seen:
            seen, embedded = maps, embed(maps)
        return embedded  # type: ignore[no-any-return]

    return embed_once
