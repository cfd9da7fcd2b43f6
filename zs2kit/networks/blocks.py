"""Checkpoints whose denoiser is a transformer: Z-Image, FLUX, Stable Diffusion 3, Qwen-Image.

They are driven by the library's own blocks (Modular Diffusers), one step at a time: these know how each
family embeds prompts, packs latents, numbers positions and spaces its noise levels. The loop, the guidance,
the noise and the scheduler's steps are zs2kit's.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from zs2kit.attention import Tokens, self_attention
from zs2kit.errors import ModelError, PluginError
from zs2kit.memory import copied
from zs2kit.networks import steering
from zs2kit.networks.base import MASK, Branch, DenoiserInputs, Embeds, Encode, Side
from zs2kit.networks.families import FAMILIES, known
from zs2kit.quiet import quiet
from zs2kit.schedule import Step, flow_euler, with_levels_of


class Blocks:
    """The `Network` of a pipeline that has a transformer of one of `FAMILIES`.

    called: the checkpoint's name in messages. Raises `ModelError` if the pipeline is of no such family.
    """

    name = "transformer"
    scheduler = "euler"
    # With more, poses stick to the first frame: see "Momentum in joint attention" in docs/results.md
    momentum = 0.25

    def __init__(self, pipeline: Any, called: str) -> None:
        kind = type(pipeline).__name__
        if kind not in FAMILIES:
            raise ModelError(f"{called}: a {kind} can't be used", f"use {known()}")
        self.called = called
        self.pipeline = pipeline
        self.module: Any = pipeline.transformer
        self.family = FAMILIES[kind]
        self_attention(self.module)  # raises an error if it can't be given momentum
        # The first of the branches of a call, of a chunk -> all of them, by their ids, and which conditions
        # there are -> what is prepared
        self._prepared: WeakKeyDictionary[Branch, dict[tuple[Any, ...], _Prepared]] = WeakKeyDictionary()
        with quiet():  # the library says that its guiders are experimental; none is used
            self._modular = _modular(pipeline, self.family.blocks)

    @property
    def num_inference_steps(self) -> int:
        """The default; distilled checkpoints take few."""
        distilled = self.guided == "none"
        return self.family.distilled_steps if distilled else self.family.num_inference_steps

    @property
    def guidance_scale(self) -> float:
        """The default."""
        return self.unguided if self.guided == "none" else self.family.guidance_scale

    @property
    def unguided(self) -> float:
        """See `Network`."""
        return self.family.unguided

    @property
    def guided(self) -> Literal["cfg", "embedded", "none"]:
        """See `Network`; by the checkpoint's configs."""
        if self.family.blocks.startswith("Flux2Klein"):
            return "none" if self.pipeline.config.is_distilled else "cfg"
        if self.family.blocks.startswith("Flux"):
            return "embedded" if self.module.config.guidance_embeds else "none"
        return "cfg"

    @property
    def channels(self) -> int:
        """The channels of the latents, and of what some see beside them."""
        side = self.family.side if self.family.packed else 1
        return int(self.module.config.in_channels) // side**2

    @property
    def shows(self) -> bool:
        """See `Network`."""
        return self.family.shows

    @property
    def edits(self) -> bool:
        """See `Network`."""
        return self.family.edits

    @property
    def takes_maps(self) -> bool:
        """See `Network`."""
        return self.family.maps

    @property
    def controlnet(self) -> str | None:
        """See `Network`."""
        return self.family.controlnet

    @property
    def of_controlnets(self) -> Mapping[str, Any]:
        """See `Network`."""
        config = self.module.config
        return {name: config[name] for name in steering.COMMON if name in config}

    @property
    def one_prompt_steers(self) -> bool:
        """See `Network`; Qwen-Image's do, as in its pipeline."""
        return self.controlnet == "QwenImageControlNetModel"

    @property
    def multiple(self) -> int:
        """How many latents a token covers along one side."""
        return self.family.side

    @property
    def native_size(self) -> tuple[int, int]:
        """(height, width), by the VAE's config, or else for 1024x1024 pixels."""
        pixels = self.pipeline.vae.config.get("sample_size") or 1024
        return pixels // self._pixels, pixels // self._pixels

    @property
    def _pixels(self) -> int:
        """How many pixels a latent covers along one side."""
        # In FLUX.2, whose tokens are single latents, these are squares of the VAE's.
        return int(self._modular.vae_scale_factor) * (2 if self.family.side == 1 else 1)

    @torch.no_grad()
    def embed(
        self,
        prompt: str,
        negative_prompt: str,
        height: int,
        width: int,
        images: NDArray[np.uint8] | None = None,
    ) -> tuple[Embeds, Embeds]:
        """See `Network`. By the family's own blocks."""
        if not self.edits:
            text = self._embed(prompt)
            return text, self._embed(negative_prompt) if self.guided == "cfg" else text
        if images is None:
            raise self._needs_picture()
        shown = [Image.fromarray(each) for each in images]
        # Frame by frame, since some blocks take all pictures for those of one prompt
        text, negative = (
            _stacked([self._embed(each, image=image) for image in shown])
            for each in (prompt, negative_prompt)
        )
        return text, negative

    def _needs_picture(self) -> ModelError:
        return ModelError(
            f"{self.called} edits pictures, and draws nothing from text alone", "use the plugin instruct"
        )

    def _embed(self, prompt: str, **shown: Any) -> Embeds:
        blocks = self._blocks(shown).sub_blocks
        encoders = [block for name, block in blocks.items() if name.split(".")[0] == "text_encoder"]
        longest = getattr(
            getattr(self.pipeline, self.family.tokenizer), "model_max_length", self.family.tokens
        )
        limit = {"max_sequence_length": longest} if longest < self.family.tokens else {}
        state = _state(encoders, {"prompt": prompt, **limit, **shown})
        with quiet():
            for block in encoders:
                if hasattr(block, "DEFAULT_SYSTEM_MESSAGE"):  # FLUX.2's has lost a line break in the blocks
                    block.DEFAULT_SYSTEM_MESSAGE = self.pipeline.system_message
                block(self._modular, state)
        found = {
            each.name: state.get(each.name)
            for block in encoders
            for each in block.intermediate_outputs
            if "prompt" in each.name and not each.name.startswith("negative_")
        }
        tensors = {name: value for name, value in found.items() if value is not None}
        embeds = tensors.pop("prompt_embeds")
        if isinstance(embeds, list):  # of prompts of any lengths
            embeds = embeds[0][None]
            tensors[MASK] = torch.ones(embeds.shape[:2], dtype=torch.bool, device=embeds.device)
        return Embeds(embeds, tensors)

    def cut(self, prompt: str) -> tuple[int, str]:
        """See `Network`."""
        tokenizer, read = getattr(self.pipeline, self.family.tokenizer), self.family.tokens
        if tokenizer is None:  # Stable Diffusion 3 may go without its largest text encoder
            tokenizer = self.pipeline.tokenizer
            read = tokenizer.model_max_length - 2
        tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # a processor, for pictures too, has one
        read = min(read, tokenizer.model_max_length)
        with quiet():
            tokens = tokenizer(prompt, add_special_tokens=False).input_ids
        return read, tokenizer.decode(tokens[read:])

    def begin(self, scheduler: str, num_inference_steps: int, height: int, width: int) -> Any:
        """See `Network`. The noise levels are the family's, and depend on the size."""
        euler = flow_euler(scheduler, self.pipeline.scheduler.config, num_inference_steps)
        blocks = self._blocks({}).sub_blocks
        (block,) = (block for name, block in blocks.items() if name.endswith("set_timesteps"))
        latents = torch.zeros(1, self.channels, height, width, device=self.module.device)
        given = {
            "latents": self._pack(latents),
            "height": height * self._pixels,
            "width": width * self._pixels,
            "num_inference_steps": num_inference_steps,
            "batch_size": 1,
        }
        block(self._with(euler), _state([block], given))
        return with_levels_of(euler, scheduler)

    def adopt(self, controlnet: Any) -> None:
        """See `Network`."""
        steering.adopt(controlnet, self.module)

    def condition(self, controlnet: Any, maps: torch.Tensor, encode: Encode) -> Mapping[str, Any]:
        """See `Network`; in most families, the latents of the maps."""
        config = self.pipeline.vae.config
        shift = (config.get("shift_factor") or 0) * config.get("scaling_factor", 1)
        return steering.condition(controlnet, maps, encode, self._pack, shift)

    def tokens(self, latents: torch.Tensor, prompt_embeds: torch.Tensor) -> Tokens:
        """See `Network`."""
        height, width = latents.shape[2:]
        return Tokens(height * width // self.family.side**2, prompt_embeds.shape[1])

    def predict(
        self,
        latents: torch.Tensor,
        step: Step,
        branches: Sequence[Branch],
        prompt_embeds: torch.Tensor,
        conditions: Mapping[str, Any],
        given: Sequence[DenoiserInputs],
        sides: Sequence[Side] = (),
    ) -> torch.Tensor:
        """See `Network`."""
        if any(each.down or each.mid is not None for each in given):
            raise PluginError(
                f"{self.called} has no U-Net that could take what a plugin adds", "use another model"
            )
        known = self._prepared.setdefault(branches[0], {})
        # Plugins may add conditions in some of the steps only.
        which = *map(id, branches), *sorted(conditions), len(conditions.get("image_latents", ()))
        if which not in known or known[which].frames != len(latents):
            scale = branches[0].guidance_scale
            known[which] = self._prepare(latents, step, scale, prompt_embeds, conditions)
        transformer = self.module
        if sides:
            transformer = steering.Steered(transformer, sides, self.family.guidance_scale)
        prediction = known[which](self._pack(latents), step, transformer)
        return self._unpack(prediction, latents.shape[2:])

    def rescale(self, total: torch.Tensor, conditional: torch.Tensor) -> torch.Tensor:
        """See `Network`. Qwen-Image gives each token the norm that it has in the conditional prediction."""
        if not self.family.rescales:
            return total
        tokens = self._pack(total)
        norm = self._pack(conditional).norm(dim=-1, keepdim=True) / tokens.norm(dim=-1, keepdim=True)
        return self._unpack(tokens * norm, total.shape[2:])

    def _prepare(
        self,
        latents: torch.Tensor,
        step: Step,
        guidance_scale: float | None,
        prompt_embeds: torch.Tensor,
        conditions: Mapping[str, Any],
    ) -> _Prepared:
        """Have the blocks prepare branches of a chunk: everything that is the same in all of its steps."""
        dtype = self.module.dtype
        height, width = (side * self._pixels for side in latents.shape[2:])
        inputs = {name: _typed(value, dtype) for name, value in conditions.items()}
        embeds = prompt_embeds.to(dtype)
        pictures: list[torch.Tensor] = inputs.pop("image_latents", [])
        if self.edits and not pictures:
            raise self._needs_picture()
        inputs |= {
            "prompt_embeds": _listed(embeds, inputs.pop(MASK)) if self.family.listed else embeds,
            # FLUX.2's blocks pack them, the others take them packed.
            "latents": latents if self.family.side == 1 else self._pack(latents),
            "height": height,
            "width": width,
            "max_area": height * width,  # or Kontext's blocks would change the size
            "num_inference_steps": step.count,
            "guidance_scale": 1.0 if guidance_scale is None else guidance_scale,
        }
        euler = flow_euler(self.scheduler, self.pipeline.scheduler.config, step.count)
        blocks = self._blocks({"image": True} if pictures else {})
        with quiet():
            prepared = _Prepared(self._with(euler), blocks, inputs | self._shown(pictures), len(latents))
        if pictures and self.family.side == 1:  # FLUX.2's blocks show the same picture to all frames
            shown = torch.cat([self._pack(each) for each in pictures], dim=1)
            prepared.state.set("image_latents", shown)
        return prepared

    def _shown(self, pictures: Sequence[torch.Tensor]) -> dict[str, Any]:
        """Return the latents that are shown, (frames, channels, height, width) each, as the blocks take them.

        Raises `PluginError` if there are several for a family that takes one.
        """
        if not pictures:
            return {}
        if self.family.side == 1:
            return {"image_latents": [each[:1] for each in pictures]}
        if self.family.blocks == "QwenImageEditPlusAutoBlocks":
            return {"image_latents": [each[:, :, None] for each in pictures]}
        if len(pictures) > 1:
            raise PluginError(f"{self.called} can be shown one picture only", "use one of the two plugins")
        (picture,) = pictures
        return {"image_latents": picture[:, :, None] if self.edits else picture}

    def _with(self, scheduler: Any) -> Any:
        """Return the modular pipeline with a scheduler of its own, which its blocks change."""
        pipe = copy.copy(self._modular)
        pipe.scheduler = scheduler
        return pipe

    def _blocks(self, shown: Mapping[str, Any]) -> Any:
        """Return the blocks that run for a prompt, and for what is ``shown`` beside it."""
        if self.family.edits:
            shown = {"image": True}
        return self._modular.blocks.get_execution_blocks(prompt=True, **shown)

    def _pack(self, latents: torch.Tensor) -> torch.Tensor:
        """(frames, channels, height, width) -> (frames, tokens, channels), if it takes tokens."""
        if not self.family.packed:
            return latents
        return pixel_unshuffle(latents, self.family.side).flatten(2).transpose(1, 2)

    def _unpack(self, tokens: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        """Undo `_pack`; size: (height, width)."""
        if not self.family.packed:
            return tokens
        side = self.family.side
        squares = torch.unflatten(tokens.transpose(1, 2), 2, (size[0] // side, size[1] // side))
        return pixel_shuffle(squares, side)


class _Prepared:
    """Branches of a chunk, as the family's blocks have prepared them; calling it predicts one step."""

    def __init__(self, pipe: Any, blocks: Any, given: Mapping[str, Any], frames: int) -> None:
        from diffusers.modular_pipelines.modular_pipeline import LoopSequentialPipelineBlocks

        self.pipe = pipe
        self.frames = frames
        self.state = _state([blocks], given)
        for name, block in blocks.sub_blocks.items():
            if name.split(".")[0] in ("text_encoder", "vae_encoder"):  # what they find is given
                continue
            if isinstance(block, LoopSequentialPipelineBlocks):
                self.loop = copy.deepcopy(block)
                break
            block(pipe, self.state)
        self.prediction = _keeps_prediction(self.loop)

    @torch.no_grad()
    def __call__(self, latents: torch.Tensor, step: Step, transformer: Any) -> torch.Tensor:
        self.pipe.transformer = transformer
        self.state.set("latents", latents)
        self.state.set("timesteps", copied(step.timestep[None], latents.device))  # a loop of one step
        self.loop(self.pipe, self.state)
        prediction: torch.Tensor = self.prediction.pop()
        return prediction


def _keeps_prediction(loop: Any) -> list[torch.Tensor]:
    """Have ``loop`` append its prediction to the list that is returned, instead of taking a step with it."""
    from diffusers.modular_pipelines.modular_pipeline import ModularPipelineBlocks

    found: list[torch.Tensor] = []

    class Keeps(ModularPipelineBlocks):  # type: ignore[misc]
        """In the place of the scheduler's step."""

        description = "keeps the prediction"

        def __call__(self, components: Any, block_state: Any, **_: Any) -> tuple[Any, Any]:
            found.append(block_state.noise_pred)
            return components, block_state

    names = list(loop.sub_blocks)
    calls = [
        any(each.name == "transformer" for each in loop.sub_blocks[name].expected_components)
        for name in names
    ]
    last = max(index for index, called in enumerate(calls) if called)
    for name in names[last + 1 :]:
        del loop.sub_blocks[name]
    loop.sub_blocks["keep"] = Keeps()
    loop.set_progress_bar_config(disable=True)
    return found


def _modular(pipeline: Any, blocks: str) -> Any:
    """Return the modular pipeline of the family, made of the parts that ``pipeline`` has loaded.

    Nothing is read from the checkpoint's folder, which could bring blocks of its own.
    """
    from diffusers import modular_pipelines
    from diffusers.guiders import ClassifierFreeGuidance

    modular = getattr(modular_pipelines, blocks)().init_pipeline()
    parts = {name: part for name, part in pipeline.components.items() if name in modular.component_names}
    if "guider" in modular.component_names:
        parts["guider"] = ClassifierFreeGuidance(enabled=False)  # branches are called one by one
    modular.update_components(**parts)
    return modular


def _state(blocks: Sequence[Any], given: Mapping[str, Any]) -> Any:
    """Return the state that ``blocks`` share, with their defaults and what is ``given``."""
    from diffusers.modular_pipelines import PipelineState

    state = PipelineState()
    inputs = {each.name: each for block in blocks for each in block.inputs}
    for name, each in inputs.items():
        state.set(name, each.default, each.kwargs_type)
    for name, value in given.items():
        state.set(name, value, inputs[name].kwargs_type if name in inputs else None)
    return state


def _stacked(embeds: Sequence[Embeds]) -> Embeds:
    """Put one prompt's embeddings for several frames, of one frame each, into one."""
    conditions = {
        name: torch.cat([each.conditions[name] for each in embeds]) for name in embeds[0].conditions
    }
    return Embeds(torch.cat([each.prompt_embeds for each in embeds]), conditions)


def _listed(embeds: torch.Tensor, mask: torch.Tensor) -> list[torch.Tensor]:
    """Return each frame's prompt (tokens, channels), without padding."""
    return [each[read] for each, read in zip(embeds, mask, strict=True)]


def _typed(value: Any, dtype: torch.dtype) -> Any:
    """Return floating point tensors as the network takes them; masks stay as they are."""
    if isinstance(value, list):
        return [_typed(each, dtype) for each in value]
    return value.to(dtype) if value.is_floating_point() else value
