"""The reference plugin: IP-Adapters, as diffusers loads them, beside momentum attention."""

from __future__ import annotations

import copy
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import zs2kit
from zs2kit import Model, Plugin, hookimpl
from zs2kit.errors import ModelError, UsageError
from zs2kit.noise import MAX_DIVERGENCE, dependency_noise
from zs2kit.schedule import make_scheduler
from zs2kit.testing import check_plugin, chunks, drawn_clip, edited_pixels, make_scan, tiny_model
from zs2kit_plugins.instruct import Instruct
from zs2kit_plugins.reference import Reference

SAME = 1e-4  # of decoded frames in [0, 1], float32
FRAMES = 3

# diffusers' names of the parts of an image projection -> those in adapters' files
NAMES = {
    "image_embeds": "proj",
    "ln0": "0.norm1",
    "ln1": "0.norm2",
    "attn.to_q": "0.to_q",
    "attn.to_out.0": "0.to_out",
    "ff.0": "1.0",
    "ff.1.net.0.proj": "1.1",
    "ff.1.net.2": "1.3",
}


def save_adapter(folder, unet, *, tokens=0, seed=0):
    """Save an IP-Adapter of random weights for a U-Net, in the files that diffusers reads; return its path.

    tokens: 0 is the plain kind, more the one that looks at all of the picture's patches ("plus").
    """
    import transformers
    from diffusers.models.embeddings import ImageProjection, IPAdapterPlusImageProjection

    torch.manual_seed(seed)
    encoder = transformers.CLIPVisionModelWithProjection(
        transformers.CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            projection_dim=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
        )
    )
    encoder.save_pretrained(folder / "image_encoder")
    width = unet.config.cross_attention_dim
    if tokens:
        projection = IPAdapterPlusImageProjection(16, width, 64, heads=1, num_queries=tokens)
    else:
        projection = ImageProjection(24, width, num_image_text_embeds=4)
    weights = projection.state_dict()
    for layer in range(4 if tokens else 0):  # the files have one matrix for keys and values
        both = [weights.pop(f"layers.{layer}.attn.to_{each}.weight") for each in "kv"]
        weights[f"layers.{layer}.0.to_kv.weight"] = torch.cat(both)
    state = {}
    for key, value in weights.items():
        for ours, written in NAMES.items():
            key = key.replace(ours, written)
        state[f"image_proj.{key}"] = value
    layers = [layer for name, layer in unet.named_modules() if name.endswith("attn2")]
    for number, layer in enumerate(layers):
        for kind in ("to_k_ip", "to_v_ip"):
            state[f"ip_adapter.{2 * number + 1}.{kind}.weight"] = torch.randn_like(layer.to_k.weight)
    save_file(state, folder / "ip-adapter.safetensors")
    return folder / "ip-adapter.safetensors"


@pytest.fixture(scope="module")
def tiny(tiny_folders):
    return Model.load(tiny_folders["epsilon"])


@pytest.fixture(scope="module")
def adapter(tiny, tmp_path_factory):
    return save_adapter(tmp_path_factory.mktemp("adapter"), tiny.unet)


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """A picture that is not square."""
    path = tmp_path_factory.mktemp("picture") / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)).save(path)
    return path


@pytest.fixture
def plugin(picture, adapter):
    return Reference(image=str(picture), scale=0.7, adapter=str(adapter))


def pixels(model, plugins=(), sizes=(FRAMES,), *, carried=True, **settings):
    scan = make_scan(model, plugins, **settings)
    return edited_pixels(scan, chunks(drawn_clip(sum(sizes)), sizes, model), carried=carried)


def difference(a, b):
    return (a - b).abs().max().item()


def theirs(model, cls, adapter, picture, scheduler="ddim", guidance_scale=5.0, **settings):
    """Frame by frame, what diffusers' own pipeline makes of the same noise; this changes the model."""
    components = model.pipeline.components | {
        "scheduler": make_scheduler(scheduler, model.pipeline.scheduler.config, 8)
    }
    none = {} if "XL" in cls.__name__ else {"requires_safety_checker": False}
    pipeline = cls(**components, **none)
    pipeline.load_ip_adapter(str(adapter.parent), subfolder="", weight_name=adapter.name)
    pipeline.set_ip_adapter_scale(0.7)
    pipeline.set_progress_bar_config(disable=True)
    noise = dependency_noise(model.latent_shape(32, 32), range(FRAMES), MAX_DIVERGENCE, 0)
    (chunk,) = chunks(drawn_clip(FRAMES), [FRAMES], model)
    made = []
    for index in range(FRAMES):
        source = {"height": 32, "width": 32}
        if "image_guidance_scale" in settings:
            source = {"image": (chunk.pixels[index : index + 1] + 1) / 2}
        made.append(
            pipeline(
                "a red robot",
                ip_adapter_image=Image.open(picture),
                latents=noise[index : index + 1],
                num_inference_steps=8,
                guidance_scale=guidance_scale,
                output_type="pt",
                **source,
                **settings,
            ).images
        )
    return torch.cat(made)


@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
@pytest.mark.parametrize("tokens", [0, 6])
def test_parity_with_the_diffusers_pipeline(tiny, tiny_folders, tmp_path, picture, tokens, guidance_scale):
    adapter = save_adapter(tmp_path, tiny.unet, tokens=tokens)
    settings = {"momentum": 0, "divergence": MAX_DIVERGENCE, "guidance_scale": guidance_scale}
    ours = pixels(tiny, [Reference(image=str(picture), scale=0.7, adapter=str(adapter))], **settings)
    other = Model.load(tiny_folders["epsilon"])
    reference = theirs(
        other, diffusers.StableDiffusionPipeline, adapter, picture, guidance_scale=guidance_scale
    )
    worst = difference(ours, reference)
    print(f"largest difference, {tokens or 4} tokens, guidance {guidance_scale}: {worst:.1e}")
    assert worst <= 1e-3
    assert difference(pixels(tiny, **settings), reference) > 1e-2


def test_parity_together_with_an_instruction(tmp_path, picture):
    """Of the three branches only the one with the instruction sees the picture."""
    folder = tiny_model(tmp_path / "editor", unet={"in_channels": 8, "out_channels": 4})
    model, other = Model.load(folder), Model.load(folder)
    adapter = save_adapter(tmp_path / "adapter", model.unet)
    plugins = [Instruct(), Reference(image=str(picture), scale=0.7, adapter=str(adapter))]
    ours = pixels(model, plugins, momentum=0, divergence=MAX_DIVERGENCE)
    cls = diffusers.StableDiffusionInstructPix2PixPipeline
    reference = theirs(other, cls, adapter, picture, image_guidance_scale=1.5)
    print(f"largest difference, with instruct: {difference(ours, reference):.1e}")
    assert difference(ours, reference) <= 1e-3
    assert difference(pixels(model, [Instruct()], momentum=0, divergence=MAX_DIVERGENCE), ours) > 1e-2


def test_parity_with_the_diffusers_pipeline_of_sdxl(tmp_path, picture):
    folder = tiny_model(tmp_path / "xl", sdxl=True)
    model, other = Model.load(folder), Model.load(folder)
    adapter = save_adapter(tmp_path / "adapter", model.unet)
    plugins = [Reference(image=str(picture), scale=0.7, adapter=str(adapter))]
    ours = pixels(model, plugins, momentum=0, divergence=MAX_DIVERGENCE)
    reference = theirs(other, diffusers.StableDiffusionXLPipeline, adapter, picture)
    print(f"largest difference, SDXL: {difference(ours, reference):.1e}")
    assert difference(ours, reference) <= 1e-3


def test_it_lives_together_with_momentum(tiny, plugin):
    """The adapter replaces the attention to prompts, momentum wraps that of frames to themselves."""
    whole = pixels(tiny, [plugin])
    assert difference(pixels(tiny, [plugin], [1, 2]), whole) <= SAME
    assert difference(pixels(tiny, [plugin], [1, 2], carried=False), whole) > 10 * SAME
    assert difference(pixels(tiny, [plugin], momentum=0), whole) > 10 * SAME
    assert difference(pixels(tiny), whole) > 10 * SAME


def test_scale_0_is_no_plugin(tiny, plugin):
    plugin.scale = 0.0
    assert torch.equal(pixels(tiny, [plugin]), pixels(tiny))


def test_the_checkpoints_own_adapter_is_the_default(tiny_folders, adapter, picture, tmp_path, plugin):
    shutil.copytree(tiny_folders["epsilon"], tmp_path / "own")
    shutil.copytree(adapter.parent, tmp_path / "own" / "reference")
    ours = pixels(Model.load(tmp_path / "own"), [Reference(image=str(picture), scale=0.7)])
    assert torch.equal(ours, pixels(Model.load(tiny_folders["epsilon"]), [plugin]))


# Without a picture: the first frame of the shot.


@dataclass(eq=False)
class Alone(Plugin):
    """Says that what is drawn moves by itself, so that no plugin is added that looks at the clip."""

    follows_source = False

    @hookimpl
    def prepare(self):
        pass


def images(model, clip, plugin, **settings):
    made = zs2kit.edit(clip, model=model, plugins=[plugin, Alone()], num_inference_steps=3, **settings)
    return np.stack([frame.image for frame in made])


def test_without_a_picture_it_is_the_first_frame_as_drawn(tiny, plugin, tmp_path):
    without = images(tiny, drawn_clip(4), replace(plugin, scale=0.0))
    Image.fromarray(without[0]).save(tmp_path / "first.png")
    plugin.image = str(tmp_path / "first.png")
    expected = images(tiny, drawn_clip(4), plugin)
    plugin.image = None
    for size in (1, 2, 4):
        made = images(tiny, drawn_clip(4), plugin, chunk_size=size)
        assert np.abs(made.astype(int) - expected).max() <= 1
    assert np.abs(expected.astype(int) - without).max() > 10


def test_every_shot_has_its_own(tiny, plugin, tmp_path):
    def shots():
        clip = drawn_clip(5)
        frames = [
            frame._replace(image=255 - frame.image) if frame.pts >= 3 else frame for frame in clip.frames
        ]
        return replace(clip, frames=frames)

    plugin.image = None
    cut = images(tiny, shots(), plugin, cuts=[3 / 12])
    whole = images(tiny, shots(), plugin, cuts=[])
    assert np.abs(cut[:3].astype(int) - whole[:3]).max() <= 1
    drawn = [
        each.image
        for each in zs2kit.edit(shots(), plugins=(), model=tiny, num_inference_steps=3, cuts=[3 / 12])
    ]
    Image.fromarray(drawn[3]).save(tmp_path / "second.png")
    plugin.image = str(tmp_path / "second.png")
    assert np.abs(images(tiny, shots(), plugin, cuts=[3 / 12])[3:].astype(int) - cut[3:]).max() <= 1
    assert np.abs(whole[3:].astype(int) - cut[3:]).max() > 10


def test_so_do_clips_of_text_alone(tiny, plugin, tmp_path):
    def drawn(*plugins, frames=3):
        clip = zs2kit.generate(
            "a robot", frames=frames, model=tiny, plugins=plugins, num_inference_steps=3, chunk_size=2
        )
        return np.stack([frame.image for frame in clip])

    Image.fromarray(drawn(frames=1)[0]).save(tmp_path / "first.png")
    plugin.image = str(tmp_path / "first.png")
    expected = drawn(plugin)
    plugin.image = None
    assert np.array_equal(drawn(plugin), expected)


def test_it_keeps_the_laws_without_a_picture_too(adapter):
    check_plugin(Reference(adapter=str(adapter)), neutral={"scale": 0.0})


@dataclass(eq=False)
class Bursts(Plugin):
    """Gives the first frame, while it is drawn beforehand, latents whose square no float32 can hold."""

    @hookimpl
    def initial_latents(self, chunk, noise):
        return noise * (1e30 if chunk.first is None else 1.0), 0


def test_a_first_frame_in_which_numbers_break_ends_the_edit(tiny, plugin):
    plugin.image = None
    clip = zs2kit.edit(drawn_clip(2), model=tiny, plugins=[plugin, Bursts()], num_inference_steps=2)
    with pytest.raises(ModelError, match="overflows at frame 0, even in float32"):
        list(clip)


# No trace.


def state(unet):
    return (
        unet.attn_processors,
        copy.deepcopy(unet.state_dict()),
        dict(unet.config),
        unet.config.encoder_hid_dim_type,
        unet.encoder_hid_proj,
    )


def assert_untouched(unet, before):
    processors, weights, *config = before
    now = unet.attn_processors
    assert list(now) == list(processors) and all(now[name] is each for name, each in processors.items())
    tensors = unet.state_dict()
    assert list(tensors) == list(weights)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in tensors.items())
    assert [dict(unet.config), unet.config.encoder_hid_dim_type, unet.encoder_hid_proj] == config


def test_no_trace_between_chunks_and_after(tiny, plugin):
    before, parts = state(tiny.unet), dict(tiny.pipeline.components)
    frames = iter(
        zs2kit.edit(drawn_clip(4), model=tiny, plugins=[plugin, Alone()], num_inference_steps=2, chunk_size=2)
    )
    assert_untouched(tiny.unet, before)
    next(frames)
    assert_untouched(tiny.unet, before)
    frames.close()
    assert_untouched(tiny.unet, before)
    assert tiny.pipeline.components == parts and not tiny.lock.locked()


def test_a_trace_would_be_seen(tiny_folders, adapter):
    model = Model.load(tiny_folders["epsilon"])
    before = state(model.unet)
    model.pipeline.load_ip_adapter(str(adapter.parent), subfolder="", weight_name=adapter.name)
    with pytest.raises(AssertionError):
        assert_untouched(model.unet, before)


def test_two_threads_with_one_model_give_what_each_gives_alone(tiny, tmp_path, picture, plugin):
    """Also while the other is being set up, and has more attention than the U-Net's own."""
    plus = save_adapter(tmp_path, tiny.unet, tokens=6)
    both = [[plugin], [Reference(image=str(picture), adapter=str(plus))]]
    alone = [pixels(tiny, plugins, [1, 1], num_inference_steps=3) for plugins in both]
    assert difference(*alone) > 10 * SAME
    with ThreadPoolExecutor(2) as threads:
        for _ in range(2):
            together = [
                threads.submit(pixels, tiny, plugins, [1, 1], num_inference_steps=3) for plugins in both
            ]
            for each, expected in zip(together, alone, strict=True):
                assert torch.equal(each.result(), expected)


def test_an_adapter_on_the_hub(tiny, adapter, picture, plugin, tmp_path, monkeypatch):
    """As the hub's own library keeps what it has fetched."""
    cached = tmp_path / "models--h94--IP-Adapter"
    shutil.copytree(adapter.parent, cached / "snapshots" / "1" / "models")
    (cached / "snapshots/1/models/ip-adapter.safetensors").rename(
        cached / "snapshots/1/models/ip-adapter_sd15.safetensors"
    )
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    name = "h94/IP-Adapter/models/ip-adapter_sd15.safetensors"
    ours = pixels(tiny, [Reference(image=str(picture), scale=0.7, adapter=name)], num_inference_steps=2)
    assert torch.equal(ours, pixels(tiny, [plugin], num_inference_steps=2))


# Bad input: one line, before any sampling.


def message(model, error, plugin) -> str:
    before = state(model.unet)
    with pytest.raises(error) as raised:
        zs2kit.edit(drawn_clip(1), model=model, plugins=[plugin])
    assert_untouched(model.unet, before)
    assert not model.lock.locked() and "\n" not in str(raised.value)
    return str(raised.value)


def test_an_adapter_of_another_family(tiny, tmp_path, plugin):
    wide = tiny_model(tmp_path / "wide", unet={"cross_attention_dim": 32})
    plugin.adapter = str(save_adapter(tmp_path, Model.load(wide).unet))
    assert "another family of models" in message(tiny, ModelError, plugin)


def test_a_model_that_wears_an_adapter_already(tiny_folders, adapter, plugin):
    model = Model.load(tiny_folders["epsilon"])
    model.pipeline.load_ip_adapter(str(adapter.parent), subfolder="", weight_name=adapter.name)
    assert "doesn't support IP-Adapters" in message(model, ModelError, plugin)


def test_an_adapter_without_its_image_encoder(tiny, tmp_path, adapter, plugin):
    plugin.adapter = str(shutil.copy(adapter, tmp_path))
    assert "in the folder image_encoder next to it" in message(tiny, ModelError, plugin)


def test_a_pickled_adapter(tiny, tmp_path, plugin):
    plugin.adapter = str(tmp_path / "ip-adapter.bin")
    torch.save({}, plugin.adapter)
    assert "safetensors" in message(tiny, ModelError, plugin)


def test_a_file_that_only_claims_to_be_an_adapter(tiny, tiny_folders, tmp_path, plugin):
    plugin.adapter = str(tmp_path / "adapter.safetensors")
    (tmp_path / "adapter.safetensors").write_bytes(b"not weights")
    assert "is not a safetensors file" in message(tiny, ModelError, plugin)
    plugin.adapter = str(next((tiny_folders["epsilon"] / "unet").glob("*.safetensors")))
    assert "is not an IP-Adapter" in message(tiny, ModelError, plugin)


def test_an_adapter_that_is_nowhere(tiny, picture, plugin):
    plugin.adapter = "nobody/nothing/ip-adapter.safetensors"
    assert "nobody/nothing/ip-adapter.safetensors" in message(tiny, ModelError, plugin)
    assert "has no default IP-Adapter" in message(tiny, ModelError, Reference(image=str(picture)))


def test_a_picture_that_can_not_be_read(tiny, tmp_path, picture, plugin):
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "cut.png").write_bytes(picture.read_bytes()[:2000])
    for path in (tmp_path / "text.png", tmp_path / "cut.png", tmp_path / "missing.png", tmp_path):
        plugin.image = str(path)
        assert "can't be read as a picture" in message(tiny, UsageError, plugin)


@pytest.mark.parametrize("tokens", [0, 4])
def test_an_adapter_says_which_encoder_it_needs(tiny, tmp_path, tokens):
    """As SDXL's, of which some need the encoder of another folder of their repository."""
    import transformers

    file = save_adapter(tmp_path, tiny.unet, tokens=tokens)
    config = transformers.CLIPVisionConfig.from_pretrained(tmp_path / "image_encoder")
    config.projection_dim, config.hidden_size = 40, 32
    transformers.CLIPVisionModelWithProjection(config).save_pretrained(tmp_path / "image_encoder")
    picture = tmp_path / "red.png"
    Image.new("RGB", (32, 32), "red").save(picture)
    plugin = Reference(image=str(picture), adapter=str(file))
    numbers = "16 numbers rather than 32" if tokens else "24 numbers rather than 40"
    with pytest.raises(ModelError, match=f"another image encoder, with {numbers}; put that one next to it"):
        zs2kit.edit(drawn_clip(1), "a", plugins=[plugin], model=tiny)
    weights = load_file(file)
    save_file({**weights, "image_proj.proj.2.weight": torch.zeros(2, 2)}, file)
    with pytest.raises(ModelError, match="is for faces"):
        zs2kit.edit(drawn_clip(1), "a", plugins=[plugin], model=tiny)
