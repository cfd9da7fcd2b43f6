"""The IP-Adapter of the puppets world: a picture tells what the words leave open.

It learns from the U-Net that it is made for: shown a picture and told a part, it is to act as if it had been
told everything. Where words and picture contradict each other, the words win.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline
from diffusers.models.attention_processor import IPAdapterAttnProcessor
from diffusers.models.embeddings import ImageProjection
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection, ResNetForImageClassification
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from .captions import ANYBODY, COLOUR_WORDS, KIND_WORDS, WHERE, Triple, one_of, with_article
from .diffusion import Diffusion, save_part, text_to_image, to_tensor
from .networks import GROUPS, LATENT_SIZE
from .pictures import draw, latents, reconstructions, shard
from .places import PLACES
from .training import Run, autocast, fit, load_weights
from .yardsticks import Images, Numbers, classify, grid, save_picture, shares

SIDE = 64  # pixels on which the image encoder works
IMAGE_TOKENS = 4  # that diffusers gives to an adapter of this kind
OPEN, NO_PICTURE = 0.5, 0.1  # shares of the samples without a word on what is to be seen, or without picture
NAMED, OTHERWISE = (
    0.4,
    0.5,
)  # chances that kind, colour or place is named, and if so, that the picture disagrees
FILE = "ip-adapter.safetensors"
STEPS, GUIDANCE = 20, 5.0
SHOWN = range(20_000, 20_100)  # the held-out pictures to judge by


def image_encoder() -> Any:
    """The image encoder: CLIP's, small."""
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            image_size=SIDE,
            patch_size=8,
            hidden_size=128,
            intermediate_size=512,
            projection_dim=128,
            num_hidden_layers=3,
            num_attention_heads=4,
        )
    )


def shrink(images: Images) -> Images:
    """Pictures (pictures, H, W, 3) at the encoder's size (pictures, SIDE, SIDE, 3)."""
    return np.stack([cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for image in images])


def normalize(pixels: Tensor) -> Tensor:
    """Pixels (pictures, 3, SIDE, SIDE) in -1..1 as CLIP's image processor gives them."""
    mean, std = (
        torch.tensor(each, device=pixels.device)[:, None, None]
        for each in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)
    )
    return ((pixels + 1) / 2 - mean) / std


def jitter(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """Mirror, zoom, shift, tint and brightness, each to another degree on every picture."""
    count = len(pixels)
    zoom = rng.uniform(0.75, 1.05, (count, 2))
    view = np.zeros((count, 2, 3), np.float32)
    view[:, 0, 0], view[:, 1, 1] = zoom[:, 0] * rng.choice([-1, 1], count), zoom[:, 1]
    view[:, :, 2] = np.abs(1 - zoom) * rng.uniform(-1, 1, (count, 2))
    places = F.affine_grid(torch.from_numpy(view), list(pixels.shape), align_corners=False)
    seen = F.grid_sample(pixels, places.to(pixels.device), padding_mode="border", align_corners=False)
    tint, light = rng.uniform(0.85, 1.1, (count, 3, 1, 1)), rng.uniform(-0.12, 0.12, (count, 1, 1, 1))
    return seen * torch.from_numpy(tint).to(seen) + torch.from_numpy(light).to(seen)


class References:
    """Pictures to refer to, renders and reconstructions, found by what they show."""

    def __init__(self, run: Run) -> None:
        self.run = run
        shards = [shard(run.work, i) for i in range(len(latents(run.work)))]
        decoded = reconstructions(run.work)
        images = [np.asarray(each.images) for each in shards] + [np.asarray(each) for each in decoded]
        labels = [each.labels for each in shards] + [shards[i].labels for i in range(len(decoded))]
        self.images = np.concatenate([shrink(each) for each in images])
        self.labels = np.concatenate(labels).astype(np.int64)
        self.rows: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
        for row, shown in enumerate(self.labels.tolist()):
            self.rows[tuple(shown)].append(row)

    def see(self, rows: list[int], rng: np.random.Generator) -> Tensor:
        """What the image encoder is given of these pictures (rows, 3, SIDE, SIDE)."""
        return normalize(jitter(to_tensor(self.images[rows], self.run.device), rng))


def train_image_encoder(run: Run) -> None:
    """The image encoder, by reading kind, colour and place off pictures with a head that is thrown away."""
    data, network = References(run), readable_encoder()
    network["encoder"].set_attn_implementation("eager")  # its backward pass is quicker at this size

    def loss(rng: np.random.Generator) -> Tensor:
        rows = rng.integers(len(data.images), size=run.batch or 64).tolist()
        with autocast(run.device):
            logits = network["head"](network["encoder"](data.see(rows, rng)).image_embeds)
        parts = logits.float().split([len(names) for names in GROUPS.values()], dim=1)
        wanted = torch.from_numpy(data.labels[rows]).to(run.device)
        return sum(
            (F.cross_entropy(part, wanted[:, i], label_smoothing=0.02) for i, part in enumerate(parts)),
            torch.zeros(()),
        )

    fit("image_encoder", network, loss, run, rate=1e-3)


def readable_encoder() -> Any:
    """The image encoder and the head that it learns with."""
    encoder = image_encoder()
    labels = sum(len(names) for names in GROUPS.values())
    return nn.ModuleDict({"encoder": encoder, "head": nn.Linear(encoder.config.projection_dim, labels)})


def adapter(unet: Any) -> Any:
    """An untrained IP-Adapter for a U-Net: its keys and values begin as those of the text."""
    layers = []
    for attention in cross_attentions(unet):
        layer = IPAdapterAttnProcessor(
            attention.to_k.out_features, attention.to_k.in_features, (IMAGE_TOKENS,)
        )
        layer.to_k_ip[0].load_state_dict(attention.to_k.state_dict())
        layer.to_v_ip[0].load_state_dict(attention.to_v.state_dict())
        layers.append(layer)
    width = image_encoder().config.projection_dim
    projection = ImageProjection(width, unet.config.cross_attention_dim, IMAGE_TOKENS)
    return nn.ModuleDict({"image_proj": projection, "ip_adapter": nn.ModuleList(layers)})


def cross_attentions(unet: Any) -> list[Any]:
    """The attention to the prompt, in the order in which diffusers numbers it."""
    return [module for name, module in unet.named_modules() if name.endswith(".attn2")]


class Comparison:
    """Attention to a prompt that leaves things open and to a picture, held against that to a full prompt.

    An attention processor for training. It learns from its own layer alone, so nothing else needs a backward
    pass: where every layer gives what it would have given, so does the U-Net.
    """

    def __init__(self, layer: IPAdapterAttnProcessor) -> None:
        self.layer = layer
        self.error = torch.zeros(())

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: tuple[Tensor, Tensor, Tensor], **_: Any
    ) -> Tensor:
        told, meant, picture = encoder_hidden_states
        query = attn.to_q(hidden_states)

        def attend(keys: Tensor, values: Tensor) -> Tensor:
            heads = (attn.head_to_batch_dim(each) for each in (query, keys, values))
            attended: Tensor = attn.batch_to_head_dim(F.scaled_dot_product_attention(*heads))
            return attended

        by_words = attend(attn.to_k(told), attn.to_v(told))
        by_picture = attend(self.layer.to_k_ip[0](picture), self.layer.to_v_ip[0](picture))
        wanted = attn.to_out[0](attend(attn.to_k(meant), attn.to_v(meant)))
        found: Tensor = attn.to_out[0](by_words + by_picture)
        lacking = attn.to_out[0](by_words) - wanted
        self.error = F.mse_loss(found.float(), wanted.float()) / lacking.float().square().mean().clamp(
            min=1e-6
        )
        return found.detach()


class Sample(NamedTuple):
    """What the adapter learns one step from."""

    latents: Tensor  # (pictures, 4, LATENT_SIZE, LATENT_SIZE)
    references: Tensor  # (pictures, 3, SIDE, SIDE), as the image encoder takes them
    told: list[str]  # prompts that leave something open
    meant: list[str]  # prompts that name everything


class Lookalikes:
    """Scenes, pictures that show the like in another pose, and prompts that tell a part."""

    def __init__(self, run: Run) -> None:
        self.references = References(run)
        self.shards = latents(run.work)

    def draw(self, rng: np.random.Generator, count: int) -> Sample:
        """Scenes at random. A picture may disagree with its scene in what its prompt names."""
        picked, rows, told, meant = np.empty((count, 4, LATENT_SIZE, LATENT_SIZE), np.float32), [], [], []
        for i in range(count):
            values, _, labels = self.shards[rng.integers(len(self.shards))]
            row = int(rng.integers(len(labels)))
            picked[i] = values[row]
            named = (rng.random(len(GROUPS)) < NAMED) & (rng.random() >= OPEN)
            rows.append(self.find(labels[row], named, rng))
            kind, colour, place = (
                names[label] for names, label in zip(GROUPS.values(), labels[row], strict=True)
            )
            shown = (kind, colour, place)
            told.append(describe(shown, named, rng))
            meant.append(describe(shown, np.ones(len(GROUPS), bool), rng))
        return Sample(torch.from_numpy(picked), self.references.see(rows, rng), told, meant)

    def find(self, labels: NDArray[np.uint8], named: NDArray[np.bool_], rng: np.random.Generator) -> int:
        """The row of a picture that agrees with these labels (3,) in all that is not named."""
        other = named & (rng.random(len(GROUPS)) < OTHERWISE)
        while True:
            wanted = tuple(
                int(rng.integers(len(names))) if changed else int(label)
                for names, label, changed in zip(GROUPS.values(), labels, other, strict=True)
            )
            if found := self.references.rows[wanted]:  # nothing shows what is held out
                return found[rng.integers(len(found))]


def describe(shown: Triple, named: NDArray[np.bool_], rng: np.random.Generator) -> str:
    """A prompt for kind, colour and place that says of them what is named (3,); if nothing, often nothing."""
    (kind, colour, place), (kind_named, colour_named, place_named) = shown, named
    if not named.any() and rng.random() < 0.5:
        return ""
    noun = one_of(rng, KIND_WORDS[kind] if kind_named else ANYBODY)
    words = with_article(f"{one_of(rng, COLOUR_WORDS[colour])} {noun}" if colour_named else noun)
    return f"{words} {one_of(rng, WHERE[place])}" if place_named else words


def train_reference(run: Run) -> None:
    """The adapter, on the frozen U-Net and image encoder. The loss is the share of what is left open."""
    diffusion, data = Diffusion(run), Lookalikes(run)
    encoder, both = readable_encoder(), text_to_image(run)
    load_weights(encoder, run, "image_encoder")
    load_weights(both, run, "unet")
    encoder.requires_grad_(False)
    both.requires_grad_(False)
    network = adapter(both["unet"])
    compared = [Comparison(layer) for layer in network["ip_adapter"]]
    for attention, comparison in zip(cross_attentions(both["unet"]), compared, strict=True):
        attention.set_processor(comparison)

    def loss(rng: np.random.Generator) -> Tensor:
        sample = data.draw(rng, run.batch or 24)
        count = len(sample.told)
        blank = rng.random(count) < NO_PICTURE
        texts = [(told, told if no else all_) for told, all_, no in zip(*sample[2:], blank, strict=True)]
        clean = sample.latents.to(run.device) * diffusion.scale
        # mostly near pure noise, where it is the conditions that decide what will be seen
        timesteps = torch.from_numpy(((1 - rng.random(count) ** 2) * 1000).astype(np.int64)).to(run.device)
        noised = diffusion.scheduler.add_noise(clean, torch.randn_like(clean), timesteps)
        with autocast(run.device):
            told, meant = (
                both["text_encoder"](diffusion.tokenize(list(each))).last_hidden_state
                for each in zip(*texts, strict=True)
            )
            embeds = encoder["encoder"](sample.references).image_embeds.float()
            embeds[torch.from_numpy(blank).to(run.device)] = 0  # which is how diffusers says: no picture
            both["unet"](noised, timesteps, (told, meant, network["image_proj"](embeds)))
        return torch.stack([comparison.error for comparison in compared]).mean()

    fit("reference", network, loss, run, rate=1e-3)


def export_reference(run: Run, folder: Path) -> dict[str, int]:
    """The adapter as diffusers loads it, with its image encoder: ``reference`` in ``folder``."""
    if not run.path("reference").exists():
        return {}
    encoder, network = readable_encoder(), adapter(text_to_image(run)["unet"])
    steps = {
        name: load_weights(each, run, name)
        for name, each in (("image_encoder", encoder), ("reference", network))
    }
    save_part(encoder["encoder"], folder / "reference/image_encoder")
    state = {
        f"image_proj.{name.replace('image_embeds', 'proj')}": value
        for name, value in network["image_proj"].state_dict().items()
    }
    for index, layer in enumerate(network["ip_adapter"]):
        number = 2 * index + 1  # the even ones are of self-attention, which has nothing to load
        state[f"ip_adapter.{number}.to_k_ip.weight"] = layer.to_k_ip[0].weight
        state[f"ip_adapter.{number}.to_v_ip.weight"] = layer.to_v_ip[0].weight
    save_file({name: value.detach().half() for name, value in state.items()}, folder / "reference" / FILE)
    return steps


def draw_like(pipe: Any, references: Images, prompts: list[str], scale: float) -> Images:
    """A picture of every prompt and reference; its number is its seed."""
    pipe.set_ip_adapter_scale(scale)
    drawn = []
    # one by one: to the pipeline the references of a batch are all of every prompt
    for i, (reference, prompt) in enumerate(zip(references, prompts, strict=True)):
        images = pipe(
            prompt,
            ip_adapter_image=Image.fromarray(reference),
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            generator=torch.Generator().manual_seed(i),
            output_type="np",
        ).images
        drawn.append((images[0] * 255).round().astype(np.uint8))
    return np.stack(drawn)


def measure_reference(folder: Path, docs: Path | None) -> Numbers:
    """What is read off pictures drawn after held-out ones, with open prompts and with other places named."""
    pipe = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipe.load_ip_adapter(folder, subfolder="reference", weight_name=FILE, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    classifier = ResNetForImageClassification.from_pretrained(folder / "classifier").eval()
    shown = draw(SHOWN, "test")
    elsewhere = shown.labels.astype(int)
    elsewhere[:, 2] = (elsewhere[:, 2] + 1 + np.arange(len(SHOWN)) % (len(PLACES) - 1)) % len(PLACES)
    anybody = ["a figure"] * len(SHOWN)
    named = [f"a figure {WHERE[PLACES[label]][0]}" for label in elsewhere[:, 2]]
    numbers: Numbers = {}
    rows, missed = [shown.images], [np.zeros(len(SHOWN), bool)]
    for name, prompts, scale, wanted in (
        ("reference", anybody, 1.0, shown.labels),
        ("reference, another place named", named, 1.0, elsewhere),
        ("reference, scale 0", anybody, 0.0, shown.labels),
    ):
        rows.append(draw_like(pipe, shown.images, prompts, scale))
        right = classify(classifier, rows[-1]) == wanted
        numbers |= shares(right, name)
        missed.append(~right.all(axis=1))
    if docs:
        first = slice(16)
        lines, wrong = (np.concatenate([each[first] for each in several]) for several in (rows, missed))
        save_picture(docs / "puppets-reference.jpg", grid(lines, 16, wrong))
    return numbers
