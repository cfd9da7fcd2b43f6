"""A loaded checkpoint: the one place that decides on files, devices and data types."""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock, RLock
from typing import Any, NamedTuple

import diffusers
import torch
import transformers
from diffusers.loaders.single_file_utils import SingleFileComponentError
from huggingface_hub import hf_hub_download
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from zs2kit.errors import ModelError, UsageError

BUNDLED = "puppets"
_LOADING = RLock()  # held within `quiet`, so whoever holds it must not wait for a model's lock
_WEIGHTS = Path(__file__).parent / "puppets" / "weights"
# name -> folder and default prompt; they share the side networks, which lie beside the first
_BUNDLED = {
    "puppets": (_WEIGHTS, "a red robot on the beach"),
    "puppets-instruct": (_WEIGHTS / "instruct", "turn it into a blue knight"),
}
_ON_THE_HUB = r"[\w-][\w.-]*/[\w.-]+"
# The files that folders and repositories of adapters hold, as diffusers writes them
_LORA = "pytorch_lora_weights.safetensors"
_EMBEDDING = "learned_embeds.safetensors"
_LAYERS = 100  # in one entry of a config: nobody has trained more, and to build very many takes for ever


class Embeds(NamedTuple):
    """A prompt as the U-Net takes it."""

    prompt_embeds: torch.Tensor  # (1, tokens, channels)
    conditions: dict[str, torch.Tensor]  # further entries of added_cond_kwargs; SDXL has two


class Model:
    """A checkpoint with a `UNet2DConditionModel`, loaded once and used for any number of clips.

    pipeline: its diffusers pipeline, which embeds prompts and knows how LoRAs load. name: what messages
    call it. folder: where side networks of its own may lie.

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
        if not hasattr(pipeline, "encode_prompt"):  # Instruct-Pix2Pix's own pipeline has another
            pipeline = diffusers.StableDiffusionPipeline(**pipeline.components, requires_safety_checker=False)
        if pipeline.vae.config.get("shift_factor"):
            raise ModelError(
                f"{name}: its VAE shifts latents (shift_factor), as those of Stable Diffusion 3 and Flux do; "
                "supported are the VAEs of Stable Diffusion 1, 2 and XL"
            )
        self.pipeline = pipeline
        self.name = name
        self.folder = folder
        self.default_prompt = default_prompt
        self.unet: Any = unet
        self.vae: Any = pipeline.vae
        self.scheduler_config = pipeline.scheduler.config
        self.lock = Lock()
        self._cut: set[str] = set()  # prompts of which it was said that they are too long

    @classmethod
    def load(
        cls,
        name: str | Path = BUNDLED,
        *,
        config: str | Path | None = None,
        loras: Mapping[str, float] | Mapping[Path, float] | None = None,
        embeddings: Sequence[str | Path] = (),
        device: str | None = None,
        dtype: str | None = None,
    ) -> Model:
        """Load a checkpoint: a diffusers folder, a .safetensors file, a name on the hub, or a bundled one.

        ``puppets`` and ``puppets-instruct`` are bundled.

        config: for a .safetensors file, the diffusers folder (or hub name) with the configs that it
        lacks; None is what diffusers takes from the hub for files of its kind.
        loras: LoRAs and their weights, which are added to the checkpoint's: .safetensors files, folders,
        names on the hub (REPOSITORY or REPOSITORY/FILE), or for a bundled model the name of a bundled one.
        embeddings: textual inversions, named likewise. A prompt calls one by the token that its file
        gives, or else by the file's name without its suffix.
        device: as torch names it; by default the accelerator if there is one. dtype: float32, float16
        or bfloat16; by default float16 on CUDA and float32 elsewhere. Weights load from safetensors
        alone. Raises `ModelError` if something can't be loaded or doesn't fit, `UsageError` for an
        unknown device or dtype, a weight that is not finite, and a config that nothing needs.
        """
        for lora, weight in (loras or {}).items():
            if not math.isfinite(weight):
                raise UsageError(f"the weight of LoRA {lora} must be a finite number, not {weight}")
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
        if config is not None and not path.is_file():
            raise UsageError(f"{name} brings its own configs; config is for a single .safetensors file")
        if not path.exists() and not re.fullmatch(_ON_THE_HUB, str(name)):
            raise ModelError(
                f"{name}: no such model; give {' or '.join(_BUNDLED)}, a diffusers folder, "
                "a .safetensors file or a name on the hub"
            )
        for each in Path(config or path).glob("*/config.json"):
            with suppress(OSError, ValueError):  # diffusers says better what is wrong
                _check_layers(f"{name}/{each.parent.name}", json.loads(each.read_text(encoding="utf-8")))
        own = {path.stem: path for path in (_WEIGHTS / "loras").glob("*.safetensors")} if bundled else {}
        lora_files = {each: own.get(str(each)) or _weights_file(each, _LORA, own) for each in loras or {}}
        embedding_files = {each: _weights_file(each, _EMBEDDING) for each in embeddings}
        try:
            with quiet():
                if path.is_file():
                    pipeline = _single_file(path, config, weights)
                else:
                    # The safety checker judges pictures, which never pass through the pipeline.
                    pipeline = diffusers.DiffusionPipeline.from_pretrained(
                        path if path.is_dir() else str(name),
                        use_safetensors=True,
                        safety_checker=None,
                        **weights,
                    )
                folder = _WEIGHTS if bundled else path if path.is_dir() else None
                model = cls(pipeline, str(name), folder, prompt)
                model.pipeline.to(where)
                # Its activations overflow float16, which gives black frames.
                if model.vae.config.force_upcast and model.dtype == torch.float16:
                    model.vae.to(torch.float32)
        except ModelError:
            raise
        except Exception as error:  # loaders raise anything for a damaged checkpoint
            raise ModelError(f"{name}: can't be loaded: {_first_line(error)}") from error
        for lora, weight in (loras or {}).items():
            model._add_lora(lora, lora_files[lora], weight)
        for embedding, file in embedding_files.items():
            model._add_embedding(embedding, file)
        return model

    def _add_lora(self, name: str | Path, file: Path, weight: float) -> None:
        """Add ``weight`` times a LoRA to the weights of the U-Net and the text encoders."""
        pipeline = self.pipeline
        foreign = f"{name} was made for another family of models than {self.name}; choose a LoRA for this one"
        if any("dora_scale" in key for key in _keys(file)):  # diffusers leaves these out
            raise ModelError(f"{name}: it is a DoRA, of which only a part would load; use a plain LoRA")
        with quiet():
            try:
                matrices, _ = pipeline.lora_state_dict(
                    file, use_safetensors=True, unet_config=self.unet.config
                )
            except Exception as error:  # as in `load`
                raise ModelError(f"{name}: can't be loaded as a LoRA: {_first_line(error)}") from error
            if not matrices or not all("lora" in key for key in matrices):
                raise ModelError(f"{name}: this file is no LoRA")
            try:
                pipeline.load_lora_weights(file, adapter_name="lora", use_safetensors=True)
            except Exception as error:  # matrices of other shapes, or for layers that there aren't
                raise ModelError(foreign) from error
        parts = [each for each in pipeline._lora_loadable_modules if getattr(pipeline, each) is not None]
        names = [key for each in parts for key, _ in getattr(pipeline, each).named_parameters()]
        if sum(".lora_" in key for key in names) < len(matrices):  # diffusers passes over the others
            raise ModelError(foreign)
        # Plain layers again: as fast as before, and what plugins and attention processors expect.
        pipeline.fuse_lora(parts, lora_scale=weight)
        pipeline.unload_lora_weights()

    def _add_embedding(self, name: str | Path, file: Path) -> None:
        """Teach the text encoders the token of a textual inversion."""
        keys = _keys(file)
        pipeline = self.pipeline
        encoders = {"clip_l": (pipeline.tokenizer, pipeline.text_encoder)}
        if hasattr(pipeline, "text_encoder_2"):
            encoders["clip_g"] = (pipeline.tokenizer_2, pipeline.text_encoder_2)
        elif len(keys) == 1:
            encoders = {keys[0]: encoders["clip_l"]}
        vectors = load_file(file)
        foreign = f"{name} was made for another family of models than {self.name}; choose an embedding for it"
        if vectors.keys() != encoders.keys():
            raise ModelError(foreign)
        named = len(keys) == 1 and keys[0] != "emb_params"  # which is what others than diffusers write
        token = keys[0] if named else file.stem
        for key, (tokenizer, encoder) in encoders.items():
            if vectors[key].shape[-1] != encoder.config.hidden_size:
                raise ModelError(foreign)
            if token in tokenizer.get_vocab():
                raise ModelError(f"{name}: the model knows '{token}' already; rename the file")
            with quiet():
                pipeline.load_textual_inversion({token: vectors[key]}, None, tokenizer, encoder)

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
        self._say_what_is_cut(prompt)
        self._say_what_is_cut(negative_prompt)
        with quiet():
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

    def _say_what_is_cut(self, prompt: str) -> None:
        """Warn, once, of a prompt that is longer than the text encoder reads."""
        tokenizer = self.pipeline.tokenizer
        with quiet():
            tokens = tokenizer(self.pipeline.maybe_convert_prompt(prompt, tokenizer)).input_ids
        cut = tokens[tokenizer.model_max_length - 1 : -1]  # the last one read is the end's own
        if cut and prompt not in self._cut:
            self._cut.add(prompt)
            warnings.warn(
                f"{self.name} reads {tokenizer.model_max_length - 2} tokens of a prompt; what comes after "
                f"them has no effect: '{tokenizer.decode(cut)}'",
                stacklevel=2,
            )

    def _mean_and_std(self) -> Sequence[torch.Tensor]:
        """What the VAE's latents are normalised by, (channels, 1, 1) each; 0 and 1 for most checkpoints."""
        mean = self.vae.config.get("latents_mean") or [0.0] * self.latent_channels
        std = self.vae.config.get("latents_std") or [1.0] * self.latent_channels
        return [torch.tensor(each, device=self.vae.device).view(-1, 1, 1) for each in (mean, std)]

    @torch.no_grad()
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels (frames, 3, height, width) in [-1, 1] -> latents (frames, channels, ...), float32.

        The mode of the posterior, so that the same pixels give the same latents.
        """
        pixels = pixels.to(self.vae.device, self.vae.dtype)
        latents = torch.cat([self.vae.encode(each[None]).latent_dist.mode() for each in pixels])
        mean, std = self._mean_and_std()
        return (latents.float() - mean) / std * float(self.vae.config.scaling_factor)

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents (frames, channels, ...) -> pixels (frames, 3, height, width) in [0, 1], float32.

        NaN where the VAE's numbers break.
        """
        mean, std = self._mean_and_std()
        latents = (latents / self.vae.config.scaling_factor * std + mean).to(self.vae.dtype)
        # Frame by frame: at SDXL's size a chunk's activations would fill a graphics card.
        pixels = torch.cat([self.vae.decode(each[None], return_dict=False)[0] for each in latents])
        pixels = pixels.float() / 2 + 0.5
        # Infinity must not pass for black or white.
        return pixels.clamp(0, 1).where(pixels.isfinite(), torch.nan)

    def halves(self, networks: Iterable[Any] = ()) -> list[torch.Tensor]:
        """Return all of the weights, those of side ``networks`` among them, that are in half precision."""
        modules = [each for each in self.pipeline.components.values() if isinstance(each, torch.nn.Module)]
        tensors = [each for module in (*modules, *networks) for each in _tensors(module)]
        return [each for each in tensors if each.dtype in (torch.float16, torch.bfloat16)]

    @contextmanager
    def in_float32(self, networks: Iterable[Any] = ()) -> Iterator[None]:
        """Within this context the model and the side ``networks`` compute in float32."""
        before = [(each, each.dtype) for each in self.halves(networks)]
        try:
            for each, _ in before:
                each.data = each.data.float()
            yield
        finally:
            for each, dtype in before:
                each.data = each.data.to(dtype)  # exactly what it was

    def load_config(self, cls: Any, name: str | Path) -> dict[str, Any]:
        """Return the config of a side network of class ``cls``, without fetching its weights.

        Raises `ModelError` if it can't be loaded.
        """
        with _loading(cls, name):
            if hasattr(cls, "load_config"):  # diffusers'
                return dict(cls.load_config(name))
            return dict(cls.config_class.get_config_dict(name)[0])  # transformers'

    def load_network(self, cls: Any, name: str | Path) -> Any:
        """Load a side network of class ``cls``, from safetensors, to this model's device and dtype.

        Raises `ModelError` if it can't be loaded.
        """
        _check_layers(str(name), self.load_config(cls, name))
        with _loading(cls, name):
            network = cls.from_pretrained(name, use_safetensors=True, dtype=self.dtype)
            return network.to(self.device).eval()


def _check_layers(name: str, config: Any) -> None:
    """`ModelError` if a config asks for more layers than there can be."""
    for key, value in config.items() if isinstance(config, Mapping) else ():
        if "layers" in key and any(number > _LAYERS for number in _numbers(value)):
            raise ModelError(f"{name}: its config says {key} {value!r:.60}; mend it, {_LAYERS} is the most")


def _numbers(value: Any) -> Iterator[float]:
    """The numbers in an entry of a config, which may be lists of lists."""
    if isinstance(value, int | float):
        yield value
    for each in value if isinstance(value, list | tuple) else ():
        yield from _numbers(each)


def _tensors(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    yield from module.parameters()
    yield from module.buffers()


@contextmanager
def _loading(cls: type, name: str | Path) -> Iterator[None]:
    try:
        with quiet():
            yield
    except Exception as error:  # as in `Model.load`
        raise ModelError(f"{name}: can't be loaded as {cls.__name__}: {_first_line(error)}") from error


def _single_file(path: Path, config: str | Path | None, weights: dict[str, Any]) -> Any:
    is_xl = any(key.startswith("conditioner.") for key in _keys(path))
    cls = diffusers.StableDiffusionXLPipeline if is_xl else diffusers.StableDiffusionPipeline
    try:
        return cls.from_single_file(str(path), config=None if config is None else str(config), **weights)
    except SingleFileComponentError:  # it says which part the file lacks
        raise
    except Exception as error:
        if config is not None:
            raise OSError(f"it doesn't fit the configs of {config}; name those of its family") from error
        raise OSError(
            f"its configs can't be had from the hub ({_first_line(error)}); name a folder that has them, "
            "a checkpoint of its family, as config or with --config"
        ) from error


def _weights_file(name: str | Path, usual: str, bundled: Iterable[str] = ()) -> Path:
    """Return the .safetensors file that ``name`` means; of a folder or a repository the ``usual`` one."""
    path = Path(name)
    if path.is_dir():
        found = [path / usual] if (path / usual).is_file() else list(path.glob("*.safetensors"))
        if not found:
            raise ModelError(f"{name}: this folder has no .safetensors file")
        if len(found) > 1:
            raise ModelError(f"{name}: this folder has {len(found)} .safetensors files; name one of them")
        return found[0]
    if path.suffix in (".bin", ".pt", ".pth", ".ckpt") or (path.is_file() and path.suffix != ".safetensors"):
        raise ModelError(f"{name}: weights load from .safetensors files only; convert it first")
    if path.is_file():
        return path
    on_the_hub = re.fullmatch(rf"({_ON_THE_HUB})(?:/(.+\.safetensors))?", str(name))
    if not on_the_hub:
        known = f"; bundled are: {', '.join(sorted(bundled))}" if bundled else ""
        raise ModelError(f"{name}: no such file, folder or name on the hub{known}")
    try:
        return Path(hf_hub_download(on_the_hub[1], on_the_hub[2] or usual))
    except Exception as error:
        raise ModelError(f"{name}: there is no such file, and the hub says: {_first_line(error)}") from error


def _keys(path: Path) -> list[str]:
    """The names of the tensors in a file."""
    try:
        with safe_open(path, framework="pt") as tensors:
            return list(tensors.keys())
    except SafetensorError as error:
        raise ModelError(f"{path} is no safetensors file ({error})") from error


def _device(name: str | None) -> torch.device:
    if name is None:
        for kind, backend in (("cuda", torch.cuda), ("mps", torch.backends.mps)):
            if backend.is_available():
                return torch.device(kind)
        return torch.device("cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # by backend
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
    """Keep diffusers' and transformers' progress bars and log off the terminal: a library is silent.

    One thread at a time. These settings are the process's, as is what those libraries replace in torch while
    they load weights: two threads that load at once would leave it replaced, and later weights empty.
    """
    libraries = (diffusers.utils.logging, transformers.utils.logging)
    with _LOADING:
        before = [(each.is_progress_bar_enabled(), each.get_verbosity()) for each in libraries]
        for each in libraries:
            each.disable_progress_bar()
            each.set_verbosity(each.CRITICAL)  # what fails is raised, and we say it
        try:
            yield
        finally:
            for each, (was_shown, verbosity) in zip(libraries, before, strict=True):
                each.set_verbosity(verbosity)
                if was_shown:
                    each.enable_progress_bar()
