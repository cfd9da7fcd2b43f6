"""Loading of checkpoints, and of LoRAs and embeddings, from files, folders and the hub."""

from __future__ import annotations

import json
import math
import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from pathlib import Path
from typing import Any

import diffusers
import psutil
import torch
from accelerate import init_empty_weights
from diffusers.loaders.single_file_utils import SingleFileComponentError, convert_ldm_vae_checkpoint
from huggingface_hub import try_to_load_from_cache
from safetensors import safe_open
from safetensors.torch import load_file

from zs2kit.errors import ModelError, UsageError, Zs2Error, first_line, notify
from zs2kit.memory import free
from zs2kit.networks.base import Network
from zs2kit.networks.blocks import Blocks
from zs2kit.networks.families import FAMILIES, UNETS, Row, known, row_of
from zs2kit.networks.files import (
    CHECKPOINT,
    LORA,
    TRANSFORMER,
    VAE_ALONE,
    keys_in,
    kind_of,
    of_another_kind,
    weights_file,
)
from zs2kit.networks.hub import ON_THE_HUB, checkpoint_folder, folder_with
from zs2kit.networks.unet import UNet
from zs2kit.quiet import quiet
from zs2kit.vae import VAE

BUNDLED = "puppets"
_WEIGHTS = Path(__file__).parents[1] / "puppets" / "weights"
# name -> folder and default prompt. The first one lends its VAE and side networks to the others.
_BUNDLED = {
    "puppets": (_WEIGHTS, "a red robot on the beach"),
    "puppets-instruct": (_WEIGHTS / "instruct", "turn it into a blue knight"),
    "puppets-flow": (_WEIGHTS / "flow", "a red robot on the beach"),
}
# The file names that diffusers gives to LoRAs and embeddings in folders and repositories
_LORA = "pytorch_lora_weights.safetensors"
_EMBEDDING = "learned_embeds.safetensors"
_TINY_VAES = {  # by the channels and the scaling factor of the VAE's latents
    (4, 0.18215): "madebyollin/taesd",
    (4, 0.13025): "madebyollin/taesdxl",
    (16, 0.3611): "madebyollin/taef1",  # of FLUX.1 and Z-Image
    (16, 1.5305): "madebyollin/taesd3",
}
# The file names that it gives to weights, with their variant; they may be split:
# model.fp16-00001-of-00002.safetensors
_WEIGHTS_FILE = re.compile(r"(?:diffusion_pytorch_)?model\.?(\w*)(?:-\d+-of-\d+)?\.safetensors")
_LAYERS = 100  # the most in one entry of a config: nobody has trained more, and building many more never ends


def folder_of(name: str | Path) -> Path:
    """Return where the checkpoint called ``name`` lies, if it does so here."""
    return _BUNDLED.get(str(name), (Path(name), ""))[0]


def family_of(name: str | Path) -> Row:
    """Return what can be done with the checkpoint called ``name``. No weights are read, or fetched.

    Raises `ModelError` if there is no such checkpoint, or if it is of a family that can't be used.
    """
    path = folder_of(name)
    _check_name(name, path, str(name) in _BUNDLED, None)
    if path.is_file():
        if kind_of(keys := keys_in(path)) is not CHECKPOINT:
            raise of_another_kind(name, keys, CHECKPOINT)
        return UNETS
    with loading(name):
        index = _index(name, path if path.is_dir() else folder_with(name, ["model_index.json"]))
    _check_index(name, index)
    kind = index.get("_class_name")
    if kind in FAMILIES:
        return row_of(FAMILIES[kind])
    if index.get("unet") != ["diffusers", "UNet2DConditionModel"]:
        raise _of_no_family(name, kind)
    return UNETS


def load_pipeline(
    name: str | Path,
    *,
    config: str | Path | None = None,
    loras: Mapping[str, float] | Mapping[Path, float] | None = None,
    embeddings: Sequence[str | Path] = (),
    vae: str | Path | None = None,
    device: str | None = None,
    dtype: str | None = None,
    offload: bool | None = None,
) -> tuple[Any, tuple[Path, ...], str, bool]:
    """Load what `zs2kit.Model.load` takes; return the pipeline, the folders, the default prompt and offload.

    The folders are those in which side networks may lie. The last says whether text encoders are in host
    memory. Raises what `Model.load` raises.
    """
    for lora, weight in (loras or {}).items():
        if not math.isfinite(weight):
            raise UsageError(f"the weight of LoRA {lora} must be a finite number, not {weight}")
    where = device_of(device)
    bundled = str(name) in _BUNDLED
    path, prompt = _BUNDLED.get(str(name), (Path(name), ""))
    _check_name(name, path, bundled, config)
    for each in Path(config or path).glob("*/config.json"):
        with suppress(OSError, ValueError):  # diffusers' own message is better
            check_layers(f"{name}/{each.parent.name}", json.loads(each.read_text(encoding="utf-8")))
    index = {} if path.is_file() else _index(name, path)
    _check_index(name, index)
    weights = {"dtype": dtype_of(dtype, where, transformer="transformer" in index)}
    if embeddings and "transformer" in index:
        raise ModelError(f"{name} doesn't support textual inversions", "leave `embeddings` out")
    own = {path.stem: path for path in (_WEIGHTS / "loras").glob("*.safetensors")} if bundled else {}
    lora_files = {
        each: own.get(str(each)) or weights_file(each, _LORA, own, option="loras") for each in loras or {}
    }
    embedding_files = {each: weights_file(each, _EMBEDDING, option="embeddings") for each in embeddings}
    if path.is_file():
        pipeline = _single_file(path, config, weights)
    else:
        lent = {}
        if bundled and not (path / "vae").exists():
            lent = {"vae": diffusers.AutoencoderKL.from_pretrained(_WEIGHTS / "vae", **weights)}
        folder = checkpoint_folder(path, lent)
        variant = only_variant(folder, *(each.name for each in folder.iterdir() if each.is_dir()))
        parts = [folder / part for part in index if part != "safety_checker"]
        _check_host(name, parts, variant, weights["dtype"], half_of(transformer="transformer" in index))
        pipeline = diffusers.DiffusionPipeline.from_pretrained(
            folder,
            use_safetensors=True,
            variant=variant,
            safety_checker=None,  # it checks pictures, which never pass through the pipeline
            **lent,
            **weights,
        )
    network = network_of(pipeline, str(name))  # refuses other families before anything is added to them
    if offload is None:
        offload = offloads(network, where)
    check_room(str(name), pipeline, where, offload=offload)
    if offload:
        resting = text_encoders(pipeline)
        for part in pipeline.components.values():
            if isinstance(part, torch.nn.Module) and part not in resting:
                part.to(where)
    else:
        pipeline.to(where)
    if vae is not None:
        with loading(vae, "VAE"):
            pipeline.register_modules(vae=load_vae(vae, pipeline, str(name)))
    for lora, weight in (loras or {}).items():
        add_lora(pipeline, str(name), lora, lora_files[lora], weight)
    for embedding, file in embedding_files.items():
        add_embedding(pipeline, str(name), embedding, file)
    folders = dict.fromkeys([path, _WEIGHTS] if bundled else [path] if path.is_dir() else [])
    return pipeline, tuple(folders), prompt, offload


def offloads(network: Network, where: torch.device) -> bool:
    """Whether text encoders stay in host memory by default, except while they embed a prompt.

    They do on CUDA, with a transformer, whose text encoders are large; not if these see each frame.
    """
    return where.type == "cuda" and network.name == "transformer" and not network.edits


def text_encoders(pipeline: Any) -> list[torch.nn.Module]:
    """Return the parts of a pipeline that embed prompts."""
    parts = pipeline.components.items()
    return [
        part for name, part in parts if name.startswith("text_encoder") and isinstance(part, torch.nn.Module)
    ]


def check_room(name: str, pipeline: Any, where: torch.device, *, offload: bool) -> None:
    """Raise `ModelError` if the weights are too large for a graphics card; it says what would fit."""
    if where.type != "cuda":
        return
    parts = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    needed, texts = (
        sum(each.nbytes for part in some for each in part.state_dict().values())
        for some in (parts, text_encoders(pipeline))
    )
    room = free(where)
    if needed - offload * texts <= room:
        return
    # The network is the largest part.
    largest = max(parts, key=lambda part: sum(each.nbytes for each in part.parameters()))
    smaller = 2 if next(largest.parameters()).dtype == torch.float32 else 1
    half = f"half precision: `dtype='{half_of(transformer=hasattr(pipeline, 'transformer'))}'`"
    host = "text encoders in host memory: `offload=True`"
    ways = {
        half: smaller > 1 and (needed - offload * texts) / smaller <= room,
        host: not offload and needed - texts <= room,
        f"{half}, and {host}": smaller > 1 and not offload and (needed - texts) / smaller <= room,
    }
    fitting = [way for way, fits in ways.items() if fits]
    besides = " without its text encoders" if offload else ""
    raise ModelError(
        f"{name} has {(needed - offload * texts) / 1e9:.1f} GB of weights{besides}, but {where} has only "
        f"{room / 1e9:.1f} GB free",
        f"use {fitting[0]}" if fitting else "use a smaller model, or `device='cpu'`",
    )


def _check_host(
    name: str | Path, parts: Sequence[Path], variant: str | None, dtype: torch.dtype, half: str
) -> None:
    """Raise `ModelError` if the weights in the folders of ``parts`` don't fit into host memory.

    All are read into it, also those that go to a device. The system would kill the process without a word.
    """
    size = 0
    for file in (file for part in parts for file in part.glob("*.safetensors")):
        match = _WEIGHTS_FILE.fullmatch(file.name)
        if match is None or match[1] != (variant or ""):
            continue
        with safe_open(file, framework="pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118  # not a dict
                tensor = tensors.get_slice(key)
                # What is quantized stays so.
                size += math.prod(tensor.get_shape()) * (dtype.itemsize if "F" in tensor.get_dtype() else 1)
    room = free(torch.device("cpu")) + psutil.swap_memory().free
    if size > room:
        fits = dtype == torch.float32 and size / 2 <= room
        raise ModelError(
            f"{name} has {size / 1e9:.1f} GB of weights, but only {room / 1e9:.1f} GB of memory are free",
            f"use half precision: `dtype='{half}'`" if fits else "use a smaller model",
        )


def _check_name(name: str | Path, path: Path, bundled: bool, config: str | Path | None) -> None:
    """Raise `ModelError` or `UsageError` if, without opening it, this is seen to be no checkpoint."""
    if path.is_dir() and not (path / "model_index.json").is_file():
        raise ModelError(f"{name}: this folder is not a checkpoint, since it has no model_index.json")
    if path.is_file() and path.suffix != ".safetensors":
        raise ModelError(f"{name}: checkpoints load from .safetensors files only", "convert it first")
    if bundled and not path.exists():
        raise ModelError("the bundled model's weights are missing", "install zs2kit again")
    if config is not None and not path.is_file():
        raise UsageError(f"{name} has its own configs", "`config` is for a single .safetensors file")
    if not path.exists() and not re.fullmatch(ON_THE_HUB, str(name)):
        raise ModelError(
            f"{name}: there is no such model",
            f"give {', '.join(_BUNDLED)}, a diffusers folder, a .safetensors file or a name on the hub",
        )


def network_of(pipeline: Any, called: str) -> Network:
    """Return the network of a diffusers pipeline; ``called`` is the checkpoint's name in messages.

    Raises `ModelError` for a family that can't be used.
    """
    if getattr(pipeline, "transformer", None) is not None:
        return Blocks(pipeline, called)
    return UNet(pipeline, called)


def _index(name: str | Path, path: Path) -> dict[str, Any]:
    """Return what a checkpoint's model_index.json says, without fetching anything else."""
    if not path.is_dir():
        with suppress(ModelError):  # `checkpoint_folder` says what to do about it
            path = folder_with(str(name), ["model_index.json"])
    if not path.is_dir():
        return {}
    for each in (*path.glob("*.json"), *path.glob("*/*.json")):
        with suppress(OSError, ValueError):
            config = json.loads(each.read_text(encoding="utf-8"))
            if isinstance(config, Mapping) and "auto_map" in config:
                raise _brings_code(name)
    return dict(diffusers.DiffusionPipeline.load_config(path))


def _check_index(name: str | Path, index: Mapping[str, Any]) -> None:
    """Raise `ModelError` if a checkpoint needs code of its own, or is of a family that can't be used."""
    kind = index.get("_class_name", "")
    # A part is given by a library, or a module of diffusers' pipelines, and a class.
    parts = [each for each in index.values() if isinstance(each, list) and len(each) == 2]
    libraries = [each for each, cls in parts if isinstance(each, str) and isinstance(cls, str)]
    theirs = ("diffusers", "transformers")
    if not isinstance(kind, str) or any(
        each not in theirs and not hasattr(diffusers.pipelines, each) for each in libraries
    ):
        raise _brings_code(name)
    if "transformer" in index and kind not in FAMILIES:
        raise _of_no_family(name, kind)


def _of_no_family(name: str | Path, kind: str | None) -> ModelError:
    return ModelError(f"{name}: a {kind} can't be used", f"use {known()}")


def _brings_code(name: str | Path) -> ModelError:
    return ModelError(f"{name} comes with code of its own, which zs2kit never runs", "use another checkpoint")


def only_variant(folder: Path, *parts: str) -> str | None:
    """Return the variant, such as fp16, in which alone the weights of a folder, or of ``parts`` of it, exist.

    Returns None if all exist in none. Raises `ModelError` if parts exist in different variants only.
    """
    needed: set[str] = set()
    for each in parts or (".",):
        files = [_WEIGHTS_FILE.fullmatch(file.name) for file in (folder / each).glob("*.safetensors")]
        found = {match[1] for match in files if match}
        if found and "" not in found:
            needed = found & needed if needed else found
            if not needed:
                raise ModelError(
                    f"{folder}: its parts are there in different variants", "download one of them"
                )
    return min(needed, default=None)


def add_lora(pipeline: Any, model: str, name: str | Path, file: Path, weight: float) -> None:
    """Add ``weight`` times a LoRA to the weights of the denoiser and the text encoders."""
    foreign = ModelError(
        f"{name} was made for another family of models than {model}", "choose a LoRA for this one"
    )
    if kind_of(keys := keys_in(file)) is not LORA:
        raise of_another_kind(name, keys, LORA)
    source = _source_of_lora(name, file)
    with quiet():
        try:
            unet = {"unet_config": pipeline.unet.config} if hasattr(pipeline, "unet") else {}
            found = pipeline.lora_state_dict(copy(source), use_safetensors=True, **unet)
            matrices = found[0] if isinstance(found, tuple) else found
        except Exception as error:  # as in `loading`
            raise ModelError(f"{name}: can't be loaded as a LoRA: {first_line(error)}") from error
        if not matrices or not all("lora" in key for key in matrices):
            raise ModelError(f"{name}: this file is not a LoRA")
        try:
            pipeline.load_lora_weights(copy(source), adapter_name="lora", use_safetensors=True)
        except Exception as error:  # matrices of other shapes, or for layers that don't exist
            raise foreign from error
    parts = [each for each in pipeline._lora_loadable_modules if getattr(pipeline, each) is not None]
    names = [key for each in parts for key, _ in getattr(pipeline, each).named_parameters()]
    if sum(".lora_" in key for key in names) < len(matrices):  # diffusers skips those that don't fit
        raise foreign
    # This leaves plain layers, which are as fast as before, and what plugins and attention processors expect.
    pipeline.fuse_lora(parts, lora_scale=weight)
    pipeline.unload_lora_weights()


def _source_of_lora(name: str | Path, file: Path) -> Any:
    """Return a LoRA's file; or its tensors, without the textual inversions that A1111 may put into it."""
    tensors = load_file(file)
    added = sorted({key.split(".")[1] for key in tensors if key.startswith("bundle_emb.")})
    if not added:
        return file  # which may also say how its matrices are scaled
    notify(
        "lora-embeddings",
        f"{name} comes with textual inversions, which are left out: {', '.join(added)}",
        "save each in a file of its own and give it with `embeddings`",
    )
    return {key: it for key, it in tensors.items() if not key.startswith("bundle_emb.")}


def load_vae(name: str | Path, pipeline: Any, model: str) -> Any:
    """Load a VAE to use in place of the pipeline's own, for the ``model`` of that name.

    Raises `ModelError` if it can't be loaded, or if it was made for another family of models.
    """
    own = pipeline.vae
    foreign = ModelError(
        f"{name} was made for another family of models than {model}: its latents are others",
        "choose a VAE for this one",
    )
    if Path(name).suffix == ".safetensors":
        file = weights_file(name, "diffusion_pytorch_model.safetensors", option="vae")
        if not any("decoder.conv_in" in key for key in keys_in(file)):  # it may be a whole checkpoint's
            raise of_another_kind(name, keys_in(file), VAE_ALONE)
        vae = _vae_from_file(file, own)
    else:
        folder = folder_with(name, ["config.json", "diffusion_pytorch_model.safetensors"], "vae")
        config = own.load_config(folder)
        if (kind := config.get("_class_name")) != type(own).__name__:
            raise ModelError(
                f"{name} is a {kind}", f"give a VAE like the model's own, a {type(own).__name__}"
            )
        check_layers(str(name), config)
        vae = type(own).from_pretrained(folder, use_safetensors=True, variant=only_variant(folder))
    dtype, where = own.dtype, own.device
    # In half precision, the one to be replaced may overflow.
    if vae is None or not _is_twin(vae.to(where, torch.float32).eval(), own.float()):
        raise foreign
    return vae.to(dtype)


def _vae_from_file(file: Path, own: Any) -> Any:
    """Return the VAE in a .safetensors file, alone or in a checkpoint, with the config of a model's ``own``.

    Returns None if the file has other layers. The names are those of the original code, or diffusers', of
    which the first ones are not today's.
    """
    today = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
    weights = load_file(file)
    if any(".down_blocks." in key for key in weights):
        for old, new in today.items():
            weights = {key.replace(old, new): value for key, value in weights.items()}
    try:
        if not any(".down_blocks." in key for key in weights):
            weights = convert_ldm_vae_checkpoint(weights, own.config)
        with init_empty_weights():
            vae = type(own).from_config(own.config)
        vae.load_state_dict(weights, assign=True)
    except (AttributeError, KeyError, RuntimeError):
        return None
    return vae


def add_embedding(pipeline: Any, model: str, name: str | Path, file: Path) -> None:
    """Teach the token of a textual inversion to the text encoders."""
    keys = keys_in(file)
    encoders = {"clip_l": (pipeline.tokenizer, pipeline.text_encoder)}
    if hasattr(pipeline, "text_encoder_2"):
        encoders["clip_g"] = (pipeline.tokenizer_2, pipeline.text_encoder_2)
    elif len(keys) == 1:
        encoders = {keys[0]: encoders["clip_l"]}
    vectors = load_file(file)
    foreign = ModelError(
        f"{name} was made for another family of models than {model}", "choose an embedding for this one"
    )
    if vectors.keys() != encoders.keys():
        raise foreign
    named = len(keys) == 1 and keys[0] != "emb_params"  # the key that programs other than diffusers write
    token = keys[0] if named else file.stem
    for key, (tokenizer, encoder) in encoders.items():
        if vectors[key].shape[-1] != encoder.config.hidden_size:
            raise foreign
        if token in tokenizer.get_vocab():
            raise ModelError(f"{name}: the model already knows '{token}'", "rename the file")
        with quiet():
            pipeline.load_textual_inversion({token: vectors[key]}, None, tokenizer, encoder)


def load_tiny_vae(name: str | Path, pipeline: Any, model: str) -> Any:
    """Load an ``AutoencoderTiny`` that gives what the pipeline's VAE gives, for the ``model`` of that name.

    Raises `ModelError` if it can't be loaded, or if it was made for another VAE.
    """
    folder = folder_with(name, ["config.json", "diffusion_pytorch_model.safetensors"], "tiny_vae")
    with loading(name, "AutoencoderTiny"):
        config = diffusers.AutoencoderTiny.load_config(folder)
        if (kind := config.get("_class_name")) != "AutoencoderTiny":
            raise ModelError(f"{name} is a {kind}", "give a tiny VAE (an AutoencoderTiny of diffusers)")
        check_layers(str(name), config)
        denoiser = network_of(pipeline, model).module
        tiny = diffusers.AutoencoderTiny.from_pretrained(folder, use_safetensors=True, dtype=denoiser.dtype)
        tiny = tiny.to(denoiser.device).eval()
        if not _is_twin(tiny, pipeline.vae):
            raise ModelError(
                f"{name} was made for another family of models than {model}: it encodes pictures differently",
                "choose a tiny VAE for this one: `tiny_vae='auto'`, or `tiny_vae='none'`",
            )
        return tiny


def own_tiny_vae(pipeline: Any, folders: Sequence[Path]) -> Any:
    """Load the tiny VAE in one of the checkpoint's ``folders``, or else that for its VAE in the hub's cache.

    Returns None if there is neither. Raises what `load_tiny_vae` raises about the one in a folder.
    """
    for folder in folders:
        if (folder / "tiny_vae/config.json").is_file():
            return load_tiny_vae(folder / "tiny_vae", pipeline, str(folder))
    name = tiny_vae_on_the_hub(pipeline.vae)
    config = try_to_load_from_cache(name, "config.json") if name else None
    if not isinstance(config, str):
        return None
    try:
        return load_tiny_vae(Path(config).parent, pipeline, "")
    except ModelError:  # not all of it is there, or the checkpoint has a VAE of its own kind
        return None


def tiny_vae_on_the_hub(vae: Any) -> str | None:
    """Return the name of the tiny VAE that was made for VAEs like this one; None if there is none."""
    plain = isinstance(vae, diffusers.AutoencoderKL) and len(vae.config.block_out_channels) == 4
    if not plain or vae.config.get("latents_mean"):
        return None
    return _TINY_VAES.get((vae.config.latent_channels, vae.config.scaling_factor))


def _is_twin(tiny: Any, vae: Any) -> bool:
    """Whether a VAE, such as a tiny one, encodes a picture, smooth clouds of many sizes, as ``vae`` does.

    A tiny twin errs by a third of what there is to encode, one for other latents by more than all of it.
    """
    ours, theirs = VAE(tiny), VAE(vae)
    if (ours.scale, ours.channels) != (theirs.scale, theirs.channels):
        return False
    generator = torch.Generator().manual_seed(0)
    coarse = [torch.rand(1, 3, side, side, generator=generator) - 0.5 for side in (2, 4, 8, 16, 32)]
    clouds = sum(
        torch.nn.functional.interpolate(each, (128, 128), mode="bicubic") / each.shape[-1] ** 0.5
        for each in coarse
    )
    found, wanted = (each.encode(clouds / clouds.abs().max()) for each in (ours, theirs))
    return bool((found - wanted).square().mean() < 0.7**2 * wanted.square().mean())


def _single_file(path: Path, config: str | Path | None, weights: dict[str, Any]) -> Any:
    keys = keys_in(path)
    if kind_of(keys) is TRANSFORMER:  # perhaps with the rest, but diffusers would take it for a U-Net
        raise of_another_kind(path, keys, CHECKPOINT)
    is_xl = any(key.startswith("conditioner.") for key in keys)
    cls = diffusers.StableDiffusionXLPipeline if is_xl else diffusers.StableDiffusionPipeline
    try:
        pipeline = cls.from_single_file(str(path), config=None if config is None else str(config), **weights)
    except SingleFileComponentError:  # says which part is missing in the file
        if kind_of(keys) in (None, CHECKPOINT):
            raise
        raise of_another_kind(path, keys, CHECKPOINT) from None
    except Exception as error:
        if config is not None:
            raise ModelError(
                f"{path}: can't be loaded: it doesn't fit the configs of {config}",
                "give the configs of a checkpoint of its family",
            ) from error
        raise ModelError(
            f"{path}: can't be loaded: the configs of its parts can't be fetched from the hub",
            "name the folder of a checkpoint of its family, which has them: `config=FOLDER`",
        ) from error
    if "v_pred" in keys:  # by which trainers mark what the configs of the family don't say
        given = {**pipeline.scheduler.config, "prediction_type": "v_prediction"}
        if "ztsnr" in keys:
            given |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        pipeline.register_modules(scheduler=type(pipeline.scheduler).from_config(given))
    return pipeline


@contextmanager
def loading(name: str | Path, kind: str = "") -> Iterator[None]:
    """Within this context every error becomes a `Zs2Error`: ``name`` can't be loaded (as a ``kind``)."""
    try:
        with quiet():
            yield
    except Zs2Error:
        raise
    except Exception as error:  # loaders raise anything for a damaged checkpoint
        as_kind = f" as {kind}" if kind else ""
        raise ModelError(f"{name}: can't be loaded{as_kind}: {first_line(error)}") from error


@contextmanager
def unpickling(name: str | Path, option: str) -> Iterator[None]:
    """Within this context, what goes wrong when a file of PyTorch's is read as weights is a `ModelError`.

    option: what names the file.
    """
    try:
        yield
    except (pickle.UnpicklingError, EOFError, LookupError, ValueError) as error:
        raise ModelError(
            f"`{option}`: {name} is damaged, or has more than weights in it", "name another file"
        ) from error


def check_layers(name: str, config: Any) -> None:
    """Raise `ModelError` if a config asks for more layers than any model has."""
    for key, value in config.items() if isinstance(config, Mapping) else ():
        if "layers" in key and any(number > _LAYERS for number in _numbers(value)):
            raise ModelError(
                f"{name}: its config says {key} {value!r:.60}", f"correct it; {_LAYERS} is the most"
            )


def _numbers(value: Any) -> Iterator[float]:
    """Yield the numbers in an entry of a config, which may be nested lists."""
    if isinstance(value, int | float):
        yield value
    for each in value if isinstance(value, list | tuple) else ():
        yield from _numbers(each)


def device_of(name: str | None) -> torch.device:
    """Return the device that torch calls so; None is the accelerator if there is one.

    Raises `UsageError` if it can't be used.
    """
    if name is None:
        for kind, backend in (("cuda", torch.cuda), ("mps", torch.backends.mps)):
            if backend.is_available():
                return torch.device(kind)
        return torch.device("cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # depending on the backend
        raise UsageError(f"device '{name}' can't be used here: {first_line(error)}") from error
    return device


def half_of(*, transformer: bool) -> str:
    """Return the data type of half precision that suits a network, by its name."""
    # Transformers are trained in bfloat16, and many of them overflow in float16.
    return "bfloat16" if transformer else "float16"


def dtype_of(name: str | None, device: torch.device, *, transformer: bool = False) -> torch.dtype:
    """Return the data type called so; None is what suits the ``device``. Raises `UsageError` if unknown."""
    names = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if name is None:
        if device.type != "cuda":
            return torch.float32
        return names[half_of(transformer=transformer and torch.cuda.is_bf16_supported())]
    if name not in names:
        raise UsageError(f"there is no dtype '{name}'", f"choose from {', '.join(names)}")
    return names[name]
