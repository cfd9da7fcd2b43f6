"""A loaded checkpoint: the one place that decides on files, devices and data types."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import diffusers
import torch
import transformers

from zs2kit.errors import ModelError, UsageError

BUNDLED = "puppets"
_WEIGHTS = Path(__file__).parent / "puppets" / "weights"
# name -> folder and default prompt; they share the side networks, which lie beside the first
_BUNDLED = {
    "puppets": (_WEIGHTS, "a red robot on the beach"),
    "puppets-instruct": (_WEIGHTS / "instruct", "turn it into a blue knight"),
}


class Embeds(NamedTuple):
    """A prompt as the U-Net takes it."""

    prompt_embeds: torch.Tensor  # (1, tokens, channels)
    conditions: dict[str, torch.Tensor]  # further entries of added_cond_kwargs; SDXL has two


class Model:
    """A checkpoint with a `UNet2DConditionModel`, loaded once and used for any number of clips.

    Edits leave it as it was. ``lock`` is held while a chunk is sampled, so that two edits in one
    process don't meet in its attention layers.
    """

    def __init__(
        self, pipeline: Any, name: str, folder: Path | None = None, default_prompt: str = ""
    ) -> None:
        unet = getattr(pipeline, "unet", None)
        if not isinstance(unet, diffusers.UNet2DConditionModel) or not any(
            layer.endswith("attn1.processor") for layer in unet.attn_processors
        ):
            raise ModelError(
                f"{name}: its denoiser has no self-attention (attn1) to give momentum to; supported are "
                "Stable Diffusion 1, 2 and XL and other checkpoints with a UNet2DConditionModel"
            )
        self.pipeline = pipeline
        self.name = name
        self.folder = folder
        self.default_prompt = default_prompt
        self.unet: Any = unet
        self.vae: Any = pipeline.vae
        self.scheduler_config = pipeline.scheduler.config
        self.lock = Lock()

    @classmethod
    def load(
        cls, name: str | Path = BUNDLED, *, device: str | None = None, dtype: str | None = None
    ) -> Model:
        """Load a checkpoint: a diffusers folder, a .safetensors file, a name on the hub, or a bundled one.

        ``puppets`` and ``puppets-instruct`` are bundled.

        device: as torch names it; by default the accelerator if there is one. dtype: float32, float16
        or bfloat16; by default float16 on CUDA and float32 elsewhere. Weights load from safetensors
        alone. Raises `ModelError` if it can't be loaded, `UsageError` for an unknown device or dtype.
        """
        where = _device(device)
        weights = {"dtype": _dtype(dtype, where)}
        bundled = str(name) in _BUNDLED
        path, prompt = _BUNDLED.get(str(name), (Path(name), ""))
        if path.is_dir() and not (path / "model_index.json").is_file():
            raise ModelError(f"{name}: this folder is no checkpoint, it has no model_index.json")
        if path.is_file() and path.suffix != ".safetensors":
            raise ModelError(f"{name}: checkpoints load from .safetensors files only; convert it first")
        if bundled and not path.exists():
            raise ModelError("the bundled model's weights are missing; install zs2kit again")
        if not path.exists() and not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", str(name)):
            raise ModelError(
                f"{name}: no such model; give {' or '.join(_BUNDLED)}, a diffusers folder, "
                "a .safetensors file or a name on the hub"
            )
        try:
            with quiet():
                if path.is_file():
                    pipeline = _single_file(path, weights)
                else:
                    pipeline = diffusers.DiffusionPipeline.from_pretrained(
                        path if path.is_dir() else str(name), use_safetensors=True, **weights
                    )
                folder = _WEIGHTS if bundled else path if path.is_dir() else None
                model = cls(pipeline, str(name), folder, prompt)
                pipeline.safety_checker = None  # it judges pictures, which never pass through the pipeline
                pipeline.to(where)
                # Its activations overflow float16, which gives black frames.
                if model.vae.config.force_upcast and model.dtype == torch.float16:
                    model.vae.to(torch.float32)
        except ModelError:
            raise
        except Exception as error:  # loaders raise anything for a damaged checkpoint
            raise ModelError(f"{name}: can't be loaded: {_first_line(error)}") from error
        return model

    @property
    def device(self) -> torch.device:
        """Where the U-Net is."""
        return torch.device(self.unet.device)

    @property
    def dtype(self) -> torch.dtype:
        """The U-Net's data type."""
        dtype: torch.dtype = self.unet.dtype
        return dtype

    @property
    def latent_channels(self) -> int:
        """Channels of the VAE's latents."""
        return int(self.vae.config.latent_channels)

    @property
    def vae_scale(self) -> int:
        """Pixels along one side of a latent."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def multiple(self) -> int:
        """What sides of a picture must be divisible by: the VAE's and the U-Net's down-sampling."""
        return self.vae_scale * int(2 ** (len(self.unet.config.block_out_channels) - 1))

    @property
    def native_size(self) -> tuple[int, int]:
        """(height, width) of the pictures that the checkpoint was trained on."""
        size = self.unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return height * self.vae_scale, width * self.vae_scale

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(channels, height, width) of the latents of a picture of ``height`` x ``width`` pixels."""
        return self.latent_channels, height // self.vae_scale, width // self.vae_scale

    def bundled(self, name: str) -> Path | None:
        """Return the folder of the side network ``name`` that comes inside the checkpoint's own, if any."""
        if self.folder is None or not (self.folder / name / "config.json").is_file():
            return None
        return self.folder / name

    @torch.no_grad()
    def embed(self, prompt: str, negative_prompt: str, height: int, width: int) -> tuple[Embeds, Embeds]:
        """Return ``prompt`` and ``negative_prompt`` as the U-Net takes them, by the checkpoint's pipeline."""
        embeds, negative, *pooled = self.pipeline.encode_prompt(
            prompt=prompt,
            device=self.device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=True,
            negative_prompt=negative_prompt or None,
        )
        if not pooled:
            return Embeds(embeds, {}), Embeds(negative, {})
        sizes = [[height, width, 0, 0, height, width]]  # original, crop's corner, target
        time_ids = torch.tensor(sizes, device=self.device, dtype=embeds.dtype)
        text, negative_text = pooled
        return (
            Embeds(embeds, {"text_embeds": text, "time_ids": time_ids}),
            Embeds(negative, {"text_embeds": negative_text, "time_ids": time_ids}),
        )

    @torch.no_grad()
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels (frames, 3, height, width) in [-1, 1] -> latents (frames, channels, ...), float32.

        The mode of the posterior, so that the same pixels give the same latents.
        """
        pixels = pixels.to(self.vae.device, self.vae.dtype)
        latents = torch.cat([self.vae.encode(each[None]).latent_dist.mode() for each in pixels])
        return latents.float() * float(self.vae.config.scaling_factor)

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents (frames, channels, ...) -> pixels (frames, 3, height, width) in [0, 1], float32."""
        latents = (latents / self.vae.config.scaling_factor).to(self.vae.dtype)
        # Frame by frame: at SDXL's size a chunk's activations would fill a graphics card.
        pixels = torch.cat([self.vae.decode(each[None], return_dict=False)[0] for each in latents])
        return (pixels.float() / 2 + 0.5).clamp(0, 1)

    def load_network(self, cls: Any, name: str | Path) -> Any:
        """Load a side network of diffusers class ``cls``, from safetensors, to this model's device and dtype.

        Raises `ModelError` if it can't be loaded.
        """
        try:
            with quiet():
                network = cls.from_pretrained(name, use_safetensors=True, dtype=self.dtype)
                return network.to(self.device).eval()
        except Exception as error:  # as in `load`
            raise ModelError(f"{name}: can't be loaded as {cls.__name__}: {_first_line(error)}") from error


def _single_file(path: Path, weights: dict[str, Any]) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as tensors:
            is_xl = any(key.startswith("conditioner.") for key in tensors.keys())  # noqa: SIM118
    except SafetensorError as error:
        raise OSError(f"it is no safetensors file ({error})") from error
    cls = diffusers.StableDiffusionXLPipeline if is_xl else diffusers.StableDiffusionPipeline
    return cls.from_single_file(str(path), **weights)


def _device(name: str | None) -> torch.device:
    if name is None:
        for kind, backend in (("cuda", torch.cuda), ("mps", torch.backends.mps)):
            if backend.is_available():
                return torch.device(kind)
        return torch.device("cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(f"device '{name}' can't be used here: {_first_line(error)}") from error
    return device


def _dtype(name: str | None, device: torch.device) -> torch.dtype:
    names = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if name is None:
        return torch.float16 if device.type == "cuda" else torch.float32
    if name not in names:
        raise UsageError(f"dtype '{name}' is not one of {', '.join(names)}")
    return names[name]


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


@contextmanager
def quiet() -> Iterator[None]:
    """Keep diffusers' and transformers' progress bars and log off the terminal: a library is silent."""
    libraries = (diffusers.utils.logging, transformers.utils.logging)
    before = [(each.is_progress_bar_enabled(), each.get_verbosity()) for each in libraries]
    for each in libraries:
        each.disable_progress_bar()
        each.set_verbosity_error()
    try:
        yield
    finally:
        for each, (was_shown, verbosity) in zip(libraries, before, strict=True):
            each.set_verbosity(verbosity)
            if was_shown:
                each.enable_progress_bar()
