"""Reference: a picture shows, together with the prompt, what to draw."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zs2kit import Plugin, hookimpl, option
from zs2kit.errors import ModelError, UsageError, first_line
from zs2kit.networks.base import DenoiserInputs
from zs2kit.settings import FILE, MODEL

if TYPE_CHECKING:
    import torch

    from zs2kit.clip import Chunk
    from zs2kit.denoiser import Denoiser
    from zs2kit.model import Model
    from zs2kit.networks.base import Branch

ADAPTERS = {
    "sd1": "h94/IP-Adapter/models/ip-adapter_sd15.safetensors",
    "sdxl": "h94/IP-Adapter/sdxl_models/ip-adapter_sdxl.safetensors",
}


@dataclass(eq=False)
class Reference(Plugin):
    """Draws what a picture of yours shows: someone's look, a place, a style.

    Stable Diffusion sees the picture through an IP-Adapter, which uses only the middle of it, cut to a
    square. FLUX.1 Kontext and FLUX.2 see the whole picture by themselves. The prompt counts, too, so leave
    out of it what the picture should decide. Without a picture, each shot uses its own first frame, as it is
    drawn without the plugin, so that the figures change less.
    """

    follows_source = None  # a picture says nothing about motion

    image: str | None = option(
        None,
        "Path of the picture. none means the first frame of each shot, as it is drawn.",
        kind=FILE,
    )
    scale: float = option(
        1.0,
        "How much the picture counts, compared with the prompt; 0 means not at all. FLUX takes only 0 and 1.",
        minimum=0,
        maximum=1,
    )
    adapter: str | None = option(
        None,
        "Path of the IP-Adapter's .safetensors file, here or on the hub, with its image_encoder folder "
        f"next to it. none means the checkpoint's own if it has one, else {ADAPTERS['sd1']}, or its "
        "counterpart for SDXL; for Stable Diffusion 2 there is none.",
        kind=MODEL,
    )

    @property
    def wants_first(self) -> bool:
        """Whether the first frame of each shot is the reference, since no picture is given."""
        return self.image is None and self.scale > 0

    @hookimpl
    def setup(self, model: Model, denoiser: Denoiser) -> None:
        self._as_tokens = model.network.shows
        if self.scale == 0:
            return
        if self._as_tokens:
            self._check_tokens(model)
            self._picture = None if self.image is None else _read(self.image)
        else:
            self._adapt(model, denoiser)

    def _check_tokens(self, model: Model) -> None:
        if model.network.edits:
            raise ModelError(
                f"reference: {model.name} reads its pictures together with the prompt, and zs2kit shows it "
                "the source only",
                "use FLUX.2, or Stable Diffusion",
            )
        if self.scale != 1:
            raise UsageError(
                f"`reference.scale` can't be {self.scale:g}, since {model.name} sees a picture or doesn't",
                "use 1 or 0",
            )
        if self.adapter:
            raise UsageError(
                f"`reference.adapter` has no effect with {model.name}, which sees pictures by itself",
                "leave it out",
            )

    def _adapt(self, model: Model, denoiser: Denoiser) -> None:
        """Have the U-Net use the adapter whenever a chunk is sampled."""
        from PIL import Image
        from transformers import CLIPVisionModelWithProjection

        picture = Image.new("RGB", (64, 64)) if self.image is None else _read(self.image)
        file = _file(self.adapter, model)
        layers = _layers_in(file)
        if not (file.parent / "image_encoder").is_dir():
            raise ModelError(
                f"`reference.adapter`: {file} needs its image encoder in the folder image_encoder next to it"
            )
        encoder = model.load_network(CLIPVisionModelWithProjection, file.parent / "image_encoder")
        _check_encoder(file, encoder.config)
        pipeline = copy.copy(model.pipeline)  # the copy shares the U-Net; the encoder is the copy's alone
        pipeline.register_modules(image_encoder=encoder, feature_extractor=None)
        unet = model.unet
        with model.lock:  # another edit may have its own adapter on the U-Net at the moment
            if not hasattr(pipeline, "load_ip_adapter") or unet.encoder_hid_proj is not None:
                raise ModelError(f"reference: {model.name} doesn't support IP-Adapters", "use another model")
            if layers != _layers_of(unet):
                raise ModelError(
                    f"`reference.adapter`: {file} was made for another family of models than {model.name}",
                    "choose an IP-Adapter for this one",
                )
            with _restored(unet):
                self._processors, projection = self._load(pipeline, file, picture)

        @contextmanager
        def adapted() -> Iterator[None]:
            with _restored(unet):
                unet.set_attn_processor(unet.attn_processors | self._processors)
                unet.encoder_hid_proj = projection
                unet.config.encoder_hid_dim_type = "ip_image_proj"
                yield

        denoiser.within(adapted)

    def _load(self, pipeline: Any, file: Path, picture: Any) -> tuple[dict[str, Any], Any]:
        """Put the adapter on the pipeline's U-Net and embed the picture.

        Returns the attention processors by name, and the image projection.
        """
        import torch
        from diffusers.models.embeddings import ImageProjection

        from zs2kit.quiet import quiet

        unet = pipeline.unet
        try:
            with quiet(), torch.no_grad():
                pipeline.load_ip_adapter(str(file.parent), subfolder="", weight_name=file.name)
                pipeline.set_ip_adapter_scale(self.scale)
                projection = unet.encoder_hid_proj
                # Adapters with more than a few tokens take the encoder's features of each patch.
                patches = not isinstance(projection.image_projection_layers[0], ImageProjection)
                self._encode = partial(
                    pipeline.encode_image,
                    device=unet.device,
                    num_images_per_prompt=1,
                    output_hidden_states=patches,
                )
                self._show(picture)
                projection([self._shown])  # fails if the encoder belongs to another adapter
                if not self.wants_first:
                    del self._encode  # and the encoder with it: there is no other picture to embed
        except Exception as error:  # loaders raise anything for damaged files
            raise ModelError(f"`reference.adapter`: {file} can't be used: {first_line(error)}") from error
        # Off again, since a projection may have attention of its own, which is not the U-Net's.
        unet.encoder_hid_proj = None
        return {name: unet.attn_processors[name] for name in _replaced(unet)}, projection

    def _show(self, picture: Any) -> None:
        shown, blank = self._encode(picture)
        self._shown, self._blank = shown[:, None], blank[:, None]  # (1, pictures, ...)

    @hookimpl
    def prepare(self, chunk: Chunk, model: Model) -> None:
        if self.scale == 0:
            return
        from PIL import Image

        first = None if chunk.first is None else Image.fromarray(chunk.first)
        if self._as_tokens:
            picture = first if self.wants_first else self._picture
            self._tokens = [_encoded(picture, model, chunk.height * chunk.width)] if picture else []
            return
        if not self.wants_first:
            return
        if first:
            self._show(first)
        for processor in self._processors.values():
            processor.scale = [0.0 if chunk.first is None else self.scale]

    @hookimpl
    def denoiser_inputs(self, branch: Branch, latents: torch.Tensor) -> DenoiserInputs | None:
        if self.scale == 0:
            return None
        if self._as_tokens:
            return DenoiserInputs(shown=self._tokens)
        embeds = self._shown if branch.conditional else self._blank
        return DenoiserInputs(conditions={"image_embeds": [embeds.to(latents.dtype)]})


def _encoded(picture: Any, model: Model, area: int) -> torch.Tensor:
    """Return the latents (1, channels, height, width) of a picture of at most ``area`` pixels, or made so."""
    import numpy as np
    import torch

    shrunk = min(1.0, (area / (picture.width * picture.height)) ** 0.5)
    width, height = (
        max(1, round(shrunk * side / model.multiple)) * model.multiple
        for side in (picture.width, picture.height)
    )
    pixels = torch.from_numpy(np.array(picture.resize((width, height)))).permute(2, 0, 1)[None]
    return model.encode(pixels.to(model.device) / 127.5 - 1)


@contextmanager
def _restored(unet: Any) -> Iterator[None]:
    """Within this context an IP-Adapter may be put on a U-Net; at the end it is taken off again."""
    processors, kind = dict(unet.attn_processors), unet.config.encoder_hid_dim_type
    try:
        yield
    finally:
        unet.encoder_hid_proj = None
        unet.set_attn_processor(processors)
        unet.config.encoder_hid_dim_type = kind


def _read(path: str) -> Any:
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as picture:
            return ImageOps.exif_transpose(picture).convert("RGB")
    except Exception as error:  # damaged files raise all sorts
        raise UsageError(
            f"`reference.image`: {path} can't be read as a picture", "use a PNG or JPEG"
        ) from error


def _file(adapter: str | None, model: Model) -> Path:
    """Return the adapter's file, which is fetched if it is on the hub."""
    if adapter is None:
        own = model.bundled("reference/image_encoder")
        if own is not None:
            return own.parent / "ip-adapter.safetensors"
        if model.family not in ADAPTERS:
            raise ModelError(
                f"reference has no default IP-Adapter for models like {model.name}",
                "name one: `reference.adapter`; or use a model of Stable Diffusion 1 or XL",
            )
        adapter = ADAPTERS[model.family]
    if not adapter.endswith(".safetensors"):
        raise ModelError(
            f"`reference.adapter`: {adapter} is not a .safetensors file",
            "give one, since adapters are loaded from these only",
        )
    if Path(adapter).is_file():
        return Path(adapter)
    repository, file = "/".join(adapter.split("/")[:2]), "/".join(adapter.split("/")[2:])
    if not file or Path(adapter).is_absolute():
        raise ModelError(f"`reference.adapter`: there is no file {adapter}", "check its name")
    encoder = Path(file).parent / "image_encoder"
    wanted = [file, str(encoder / "config.json"), str(encoder / "model.safetensors")]
    from zs2kit.networks.hub import folder_with

    return folder_with(repository, wanted, "reference.adapter", inside=file) / file


def _layers_in(file: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the adapter's layers by their names in its file."""
    from safetensors import safe_open

    try:
        with safe_open(file, framework="pt") as tensors:
            layers = {
                key: tuple(tensors.get_slice(key).get_shape())
                for key in tensors.keys()  # noqa: SIM118  # not a dict
                if key.endswith(".to_k_ip.weight")
            }
    except Exception as error:  # missing or damaged
        raise ModelError(
            f"`reference.adapter`: {file} is not a safetensors file, or is incomplete", "download it again"
        ) from error
    if not layers:
        raise ModelError(f"`reference.adapter`: {file} is not an IP-Adapter")
    return layers


def _check_encoder(file: Path, encoder: Any) -> None:
    """Raise `ModelError` if an adapter was made for embeddings of another kind than an encoder's.

    encoder: its config. The plain kind takes the picture's embedding, the others the features of patches.
    """
    from safetensors import safe_open

    with safe_open(file, framework="pt") as tensors:
        projection = [key.removeprefix("image_proj.") for key in tensors.keys()]  # noqa: SIM118  # not a dict
        if "proj.2.weight" in projection or any("perceiver_resampler" in key for key in projection):
            raise ModelError(
                f"`reference.adapter`: {file} is for faces (FaceID), which reference doesn't recognise",
                "use a plain IP-Adapter",
            )
        for name, given in {"proj": encoder.projection_dim, "proj_in": encoder.hidden_size}.items():
            if f"{name}.weight" not in projection:
                continue
            wanted = tensors.get_slice(f"image_proj.{name}.weight").get_shape()[1]
            if wanted != given:
                raise ModelError(
                    f"`reference.adapter`: {file} was made for another image encoder, with {wanted} numbers "
                    f"rather than {given}",
                    "put that one next to it; files named vit-h need models/image_encoder of h94/IP-Adapter",
                )


def _layers_of(unet: Any) -> dict[str, tuple[int, ...]]:
    """Return what `_layers_in` finds in the file of an adapter that was made for ``unet``."""
    projections = [unet.get_submodule(name.removesuffix("processor") + "to_k") for name in _replaced(unet)]
    # In the files, the layers that attend to the prompt have the odd numbers.
    return {
        f"ip_adapter.{2 * index + 1}.to_k_ip.weight": tuple(each.weight.shape)
        for index, each in enumerate(projections)
    }


def _replaced(unet: Any) -> list[str]:
    """Return the names of the attention processors that an adapter replaces: those that see the prompt."""
    return [name for name in unet.attn_processors if not name.endswith("attn1.processor")]
