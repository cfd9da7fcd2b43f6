"""A loaded checkpoint: its network, its VAE and its text encoders, on a device and in a data type."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import diffusers
import numpy as np
import torch
from numpy.typing import NDArray

from zs2kit.clip import Fit
from zs2kit.domain import Domain
from zs2kit.errors import ModelError, UsageError, first_line, notify
from zs2kit.launches import CudaGraphs, Launches
from zs2kit.networks.base import Embeds, Network
from zs2kit.networks.controlnet import controlnet_from_file
from zs2kit.networks.enlarging import Enlarging
from zs2kit.networks.files import weights_file
from zs2kit.networks.hub import folder_with
from zs2kit.networks.loading import (
    BUNDLED,
    check_layers,
    device_of,
    folder_of,
    load_pipeline,
    load_tiny_vae,
    loading,
    network_of,
    only_variant,
    own_tiny_vae,
    text_encoders,
    tiny_vae_on_the_hub,
)
from zs2kit.schedule import is_flow
from zs2kit.vae import VAE

# Prompt, negative prompt, a picture's height and width, the network's data type -> both prompts, embedded
Embedded = dict[tuple[str, str, int, int, torch.dtype], tuple[Embeds, Embeds]]


_CONFIG = "config.json"


class Model:
    """A checkpoint with a U-Net or a transformer, loaded once and used for any number of clips.

    pipeline: its diffusers pipeline, which embeds prompts and loads LoRAs.
    name: what messages call it; None is the pipeline's own name.
    folders: where to look for side networks of its own.
    domain: what it can draw, if that is little.
    tiny_vae: an ``AutoencoderTiny`` for flow momentum's ``estimates``; None is the checkpoint's own VAE.

    Edits don't change it. ``lock`` is held while a chunk is sampled, so that two edits in one process don't
    use its attention layers at the same time.
    """

    def __init__(
        self,
        pipeline: Any,
        name: str | None = None,
        folders: Sequence[Path] = (),
        default_prompt: str = "",
        domain: Domain | None = None,
        tiny_vae: Any = None,
    ) -> None:
        name = name or str(pipeline.name_or_path or type(pipeline).__name__)
        _check_pipeline(pipeline, name)
        if hasattr(pipeline, "unet") and not hasattr(pipeline, "encode_prompt"):  # Instruct-Pix2Pix's own
            pipeline = diffusers.StableDiffusionPipeline(**pipeline.components, requires_safety_checker=False)
        self.network: Network = network_of(pipeline, name)
        # This is so rare that the scheduler may be there by mistake.
        if self.network.name == "unet" and is_flow(pipeline.scheduler.config):
            notify(
                "flow-matching",
                f"{name} is sampled as a model that was trained by flow matching, since its scheduler is a "
                f"{type(pipeline.scheduler).__name__}",
            )
        self.pipeline = pipeline
        self.name = name
        self.folders = folders
        self.default_prompt = default_prompt
        self.domain = domain
        self.vae: Any = pipeline.vae
        # The activations of SDXL's VAE overflow in float16, which gives black frames. Other configs say
        # `force_upcast`, too, since it is diffusers' default, but their pipelines ignore it.
        xl = self.network.name == "unet" and hasattr(pipeline, "text_encoder_2")
        if xl and self.vae.config.get("force_upcast") and self.dtype == torch.float16:
            self.vae.to(torch.float32)
        self._vae = VAE(self.vae)
        self.tiny_vae = tiny_vae
        self.estimates = VAE(tiny_vae) if tiny_vae is not None else self._vae
        self.faster: str | None = None  # a tiny VAE on the hub that would fit, but isn't on this machine
        own = self.bundled("enlarger")  # enlarges frames for clips that are larger than what it draws
        self.enlarger = None if own is None else Enlarging.bundled(own, self.device, self.dtype)
        self.graphs = self.device.type == "cuda"
        self.compiled = self.offload = False
        self.lock = Lock()
        self._cut: set[str] = set()  # prompts that are too long, of which a notice has told
        self._embedded: Embedded | None = None  # an edit's embedded prompts, while it samples

    @classmethod
    def load(
        cls,
        name: str | Path = BUNDLED,
        *,
        config: str | Path | None = None,
        loras: Mapping[str, float] | Mapping[Path, float] | None = None,
        embeddings: Sequence[str | Path] = (),
        vae: str | Path | None = None,
        device: str | None = None,
        dtype: str | None = None,
        tiny_vae: str | Path = "auto",
        graphs: bool | None = None,
        compile: bool = False,
        offload: bool | None = None,
    ) -> Model:
        """Load a checkpoint: a diffusers folder, a .safetensors file, a name on the hub, or a bundled one.

        ``puppets``, ``puppets-instruct`` and ``puppets-flow`` are bundled.

        config: for a .safetensors file, the diffusers folder or hub name that has its configs; None is what
        diffusers finds on the hub for files of this kind.
        loras: LoRAs, each with its weight: .safetensors files, folders, hub names (REPOSITORY or
        REPOSITORY/FILE) or, for a bundled model, the name of a bundled LoRA.
        embeddings: textual inversions, named in the same way. A prompt uses one by the token that its file
        gives, or else by the file's name without its suffix.
        vae: a VAE to use instead of the checkpoint's own: a .safetensors file (of a VAE or of a whole
        checkpoint), a folder or a hub name. It must have the same kind of latents.
        device: as torch calls it; by default the accelerator if there is one.
        dtype: float32, float16 or bfloat16. The default is float32; on CUDA it is float16, or bfloat16 for a
        transformer if the device supports it.
        tiny_vae: a fast stand-in for the VAE where flow momentum looks at what a step estimates; finished
        frames come from the VAE itself. It is the folder or hub name of an ``AutoencoderTiny``, ``none``, or
        ``auto``: the one in the checkpoint's folder ``tiny_vae``, else taesd or taesdxl if it is in the hub's
        cache, else none.
        graphs: whether the networks' calls are recorded as CUDA graphs, which is faster; by default, on CUDA.
        compile: whether ``torch.compile`` compiles the networks, which takes minutes at first and needs a
        compiler.
        offload: whether text encoders stay in host memory except while they embed a prompt; by default, those
        of a transformer do on CUDA, unless they see the frames that are edited.

        Weights are loaded from safetensors only. Raises `ModelError` if something can't be loaded or doesn't
        fit; `UsageError` for an unknown device or dtype, a weight that is not finite, a config that isn't
        needed, or ``graphs``, ``compile`` or ``offload`` where they are of no use.
        """
        with loading(name):
            _check_machine(device_of(device), graphs=graphs, compile=compile, offload=offload)
            pipeline, folders, prompt, offload = load_pipeline(
                name,
                config=config,
                loras=loras,
                embeddings=embeddings,
                vae=vae,
                device=device,
                dtype=dtype,
                offload=offload,
            )
            domain = Domain.of(folder_of(name))
            if domain and (loras or embeddings):  # these may teach it further words
                domain = replace(domain, words=None)
            auto, tiny = str(tiny_vae) == "auto", None
            if auto:
                tiny = own_tiny_vae(pipeline, folders)
            elif str(tiny_vae) != "none":
                tiny = load_tiny_vae(tiny_vae, pipeline, str(name))
            model = cls(pipeline, str(name), folders, prompt, domain, tiny)
            if auto and tiny is None:
                model.faster = tiny_vae_on_the_hub(pipeline.vae)
            if graphs is not None:
                model.graphs = graphs
            model.compiled, model.offload = compile, offload
            return model

    def __reduce__(self) -> Any:
        raise ModelError(
            f"the model {self.name} can't be pickled, so it can't be handed to another process",
            "load it there, with zs2kit.Model.load, in a process that was spawned rather than forked",
        )

    @property
    def unet(self) -> Any:
        """The U-Net. Raises `ModelError` if the checkpoint has another kind of network."""
        if self.network.name != "unet":
            raise ModelError(
                f"{self.name} has a transformer, and this plugin needs a U-Net",
                "use a model of Stable Diffusion 1, 2 or XL",
            )
        return self.network.module

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return torch.device(self.network.module.device)

    @property
    def dtype(self) -> torch.dtype:
        """The network's data type."""
        dtype: torch.dtype = self.network.module.dtype
        return dtype

    @property
    def modules(self) -> list[torch.nn.Module]:
        """All parts that have weights: those of the pipeline, and the tiny VAE."""
        parts = (*self.pipeline.components.values(), self.tiny_vae)
        return [each for each in parts if isinstance(each, torch.nn.Module)]

    @property
    def latent_channels(self) -> int:
        """The number of channels of the VAE's latents."""
        return self._vae.channels

    @property
    def family(self) -> Literal["sd1", "sd2", "sdxl", "flux", "qwen-image"] | None:
        """The model's family, if it is one that has default side networks; else None."""
        if self.network.name != "unet":
            transformers: dict[Any, Literal["flux", "qwen-image"]] = {
                "FluxControlNetModel": "flux",
                "QwenImageControlNetModel": "qwen-image",
            }
            return transformers.get(self.network.controlnet)
        width, xl = self.unet.config.cross_attention_dim, self.unet.config.addition_embed_type == "text_time"
        families: dict[Any, Literal["sd1", "sd2"]] = {768: "sd1", 1024: "sd2"}
        return ("sdxl" if width == 2048 else None) if xl else families.get(width)

    @property
    def inpaints(self) -> bool:
        """Whether it is made for inpainting: its network also sees what stays of the source, and where."""
        return self.network.channels - 2 * self.latent_channels in (1, self.vae_scale**2)

    @property
    def vae_scale(self) -> int:
        """How many pixels of a picture's side one latent covers."""
        return self._vae.scale

    @property
    def multiple(self) -> int:
        """What a picture's sides must be divisible by, given how the VAE and the network down-sample."""
        return self.vae_scale * self.network.multiple

    @property
    def native_size(self) -> tuple[int, int]:
        """(height, width) of the pictures that the checkpoint was trained on."""
        height, width = self.network.native_size
        return height * self.vae_scale, width * self.vae_scale

    def launches(self) -> Launches:
        """Return what an edit calls its networks with."""
        recorder = partial(CudaGraphs, self.device) if self.graphs else None
        return Launches(recorder, torch.compile if self.compiled else None)

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(channels, height, width) of the latents of a picture of ``height`` x ``width`` pixels."""
        return self.latent_channels, height // self.vae_scale, width // self.vae_scale

    def bundled(self, name: str) -> Path | None:
        """Return the folder of the checkpoint's own side network called ``name``; None if there is none.

        A ControlNet for another class of networks doesn't count.
        """
        for folder in self.folders:
            config, kind = folder / name / _CONFIG, ""
            if config.is_file():
                with suppress(OSError, ValueError):  # loading it will say what is wrong
                    kind = str(json.loads(config.read_text(encoding="utf-8")).get("_class_name"))
                if "ControlNet" not in kind or kind == self.network.controlnet:
                    return folder / name
        return None

    def embed(
        self,
        prompt: str,
        negative_prompt: str,
        height: int,
        width: int,
        images: NDArray[np.uint8] | None = None,
    ) -> tuple[Embeds, Embeds]:
        """Return ``prompt`` and ``negative_prompt``, embedded as the network takes them.

        height, width: of the pictures, in pixels.
        images: the source, (frames, height, width, 3) RGB, for a model whose text encoder sees it.

        Sends a notice, once for each prompt, if it is too long to be read whole.
        """
        for each in (prompt, negative_prompt):
            read, cut = self.network.cut(each)
            if cut and each not in self._cut:
                self._cut.add(each)
                notify(
                    "prompt-cut",
                    f"{self.name} reads {read} tokens of a prompt, and the rest has no effect: '{cut}'",
                )
        if self._embedded is None or self.network.edits:  # the latter sees each frame, so nothing is reused
            with self._text_encoders():
                return self.network.embed(prompt, negative_prompt, height, width, images)
        key = prompt, negative_prompt, height, width, self.dtype
        if key not in self._embedded:
            with self._text_encoders():
                self._embedded[key] = self.network.embed(prompt, negative_prompt, height, width)
        return self._embedded[key]

    @contextmanager
    def _text_encoders(self) -> Iterator[None]:
        """Within this context the text encoders are where the network is."""
        resting = text_encoders(self.pipeline) if self.offload else []
        try:
            for each in resting:
                each.to(self.device)
            yield
        finally:
            for each in resting:
                each.to("cpu")

    @contextmanager
    def embedding_once(self, embedded: Embedded) -> Iterator[None]:
        """Within this context, for which the lock is needed, each prompt is embedded only once.

        embedded: the prompts that are embedded already; new ones are added to it.
        """
        self._embedded = embedded
        try:
            yield
        finally:
            self._embedded = None

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels (frames, 3, height, width) in [-1, 1] -> latents (frames, channels, ...), float32.

        They are the mode of the posterior, so the same pixels always give the same latents.
        """
        return self._vae.encode(pixels)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents (frames, channels, ...) -> pixels (frames, 3, height, width) in [0, 1], float32.

        Pixels are NaN where the VAE overflows.
        """
        return self._vae.decode(latents)

    def knows(self, image: NDArray[np.uint8]) -> bool:
        """Whether an RGB ``image`` (height, width, 3) shows the kind of thing that the model draws.

        It does if the VAE rebuilds it as well as the model's domain says. Without a domain, every image does.
        """
        if self.domain is None:
            return True
        fit = Fit.into((image.shape[0], image.shape[1]), self.native_size, self.multiple)
        pixels = torch.from_numpy(fit.apply(image)).permute(2, 0, 1)[None] / 255
        with self.lock:
            error = self.decode(self.encode(pixels * 2 - 1)).cpu() - pixels
        return error.square().mean().item() < 10 ** (-self.domain.psnr / 10)

    def halves(self, networks: Iterable[Any] = ()) -> list[torch.Tensor]:
        """Return the model's weights, and those of side ``networks``, that are in half precision."""
        tensors = [each for module in (*self.modules, *networks) for each in _tensors(module)]
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
                each.data = each.data.to(dtype)  # exactly the values from before

    def load_config(self, cls: Any, name: str | Path, *, option: str | None = None) -> dict[str, Any]:
        """Return the config of a side network of class ``cls``, without fetching its weights.

        option: as for `load_network`. Raises `ModelError` if it can't be loaded.
        """
        folder = folder_with(name, [_CONFIG], option, further=[_weights_of(cls)])
        with loading(name, cls.__name__):
            if _is_diffusers(cls):
                return dict(cls.load_config(folder))
            return dict(cls.config_class.get_config_dict(folder)[0])  # transformers'

    def load_controlnet(self, name: str | Path, *, option: str | None = None) -> Any:
        """Load the ControlNet in a .safetensors file, here or on the hub, to this model's device and dtype.

        option: as for `load_network`. Raises `ModelError` if it can't be loaded or doesn't fit this model.
        """
        if self.network.name != "unet":
            raise ModelError(
                f"{name}: a ControlNet for a transformer can't be loaded from a single file",
                "give a folder in diffusers' format, or its name on the hub",
            )
        with loading(name):
            file = weights_file(name, "diffusion_pytorch_model.safetensors", option=option)
            found = controlnet_from_file(name, file, self.name, self.unet, self.latent_channels)
            return found.to(self.device, self.dtype).eval()

    def load_network(self, cls: Any, name: str | Path, *, option: str | None = None) -> Any:
        """Load a side network of class ``cls`` from safetensors to this model's device and dtype.

        name: a folder, or a repository on the hub.
        option: the plugin's option that names it, such as pose.model, for messages.

        Raises `ModelError` if it can't be loaded.
        """
        check_layers(str(name), self.load_config(cls, name, option=option))
        folder = folder_with(name, [_CONFIG, _weights_of(cls)], option)
        with loading(name, cls.__name__), warnings.catch_warnings():
            # diffusers' ControlNets of FLUX.1 use a class of its own that it has moved
            warnings.simplefilter("ignore", FutureWarning)
            variant = only_variant(folder)
            network = cls.from_pretrained(folder, use_safetensors=True, variant=variant, dtype=self.dtype)
            return network.to(self.device).eval()


def _check_pipeline(pipeline: Any, name: str) -> None:
    """Raise `ModelError` for a script's changes to its pipeline that an edit couldn't reproduce."""
    modules = [each for each in pipeline.components.values() if isinstance(each, torch.nn.Module)]
    if any(hasattr(each, "_hf_hook") for each in modules):
        raise ModelError(
            f"{name}: this pipeline moves its parts between devices (enable_model_cpu_offload)",
            "load it without that",
        )
    if hasattr(pipeline, "unet") and pipeline.unet.config.encoder_hid_dim_type == "ip_image_proj":
        raise ModelError(
            f"{name}: this pipeline has an IP-Adapter", "unload it, and use the plugin reference instead"
        )
    if getattr(pipeline, "controlnet", None) is not None:
        notify(
            "unused-controlnet",
            f"{name}: the ControlNet of this pipeline isn't used",
            "give it to the plugin control, as a folder or file",
        )


def _check_machine(device: torch.device, *, graphs: bool | None, compile: bool, offload: bool | None) -> None:
    """Raise `UsageError` if one of these is of no use on this machine."""
    if graphs and device.type != "cuda":
        raise UsageError(f"device '{device}' has no CUDA graphs", "leave `graphs` out")
    if offload and device.type == "cpu":
        raise UsageError("everything is in host memory already, with device 'cpu'", "leave `offload` out")
    if compile:
        try:
            torch.compile(lambda tensor: tensor + 1)(torch.zeros(2, device=device))
        except Exception as error:  # anything may be missing or broken
            raise UsageError(
                f"nothing can be compiled here: {first_line(error)}", "leave `compile` out"
            ) from error


def _is_diffusers(cls: Any) -> bool:
    return hasattr(cls, "load_config")  # classes of transformers have none


def _weights_of(cls: Any) -> str:
    """The file in which a class keeps its weights."""
    return f"{'diffusion_pytorch_model' if _is_diffusers(cls) else 'model'}.safetensors"


def _tensors(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    yield from module.parameters()
    yield from module.buffers()
