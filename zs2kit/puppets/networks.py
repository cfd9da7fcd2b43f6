"""The networks of the puppets model: real diffusers and transformers classes at the sizes that we train."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    ControlNetModel,
    DDIMScheduler,
    FluxControlNetModel,
    FluxTransformer2DModel,
    UNet2DConditionModel,
    UNet2DModel,
)
from diffusers.models.normalization import AdaLayerNormContinuous, AdaLayerNormZero, AdaLayerNormZeroSingle
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    ResNetConfig,
    ResNetForImageClassification,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from .figures import COLOURS, KINDS
from .places import PLACES

SIZE = 128  # pixels of a frame's side
LATENT_SIZE = SIZE // 8
TOKENS = 32
PIECES = 1024  # that the tokenizer learns at most, beside single bytes at the ends of words
GROUPS = {"kind": KINDS, "colour": COLOURS, "place": PLACES}
"""What the classifier reads: one softmax over each group, side by side in its logits."""


ENGLISH = """
a about above after all alone along among an and another are around as at away back bag ball bear beautiful
bed before behind below beside between big bird black blowing boat book both bottom box boy bright brown
building but by calm car cartoon castle cat chair child church close clothes cloud cloudy coat cold colour
coloured costume cute dark day dog door down dragon dress early empty evening eye face falling far fast fence
field figure fire fish flower flying forest from front full garden gate gentle girl glass gold golden good
grey grinning hair hand happy has hat have head heavy high hill his holding home horse hot house huge her in
inside into is island it its jacket kicking king lake lamp large late leaf left leg light like little lonely
long looking low lying man many middle mist moon more morning mountain mouth moving near new next nice night
no nobody not of off old on one only open other out outside over painting park part path people person picture
place plain playing portrait queen quiet rain rainbow raised right river road rock roof room running sad sea
shadow she ship shirt short side sign silver simple sitting sky sleeping slow small smiling snowman some soft
someone spring standing star still stone storm street strong style summer sun sunny sunset table tall tent
that the their there they thin this three tiny to together top tower town toy train tree trousers turning two
under up very view village walking wall warm water wave wearing wet where which while who wild wind window
wings winter with without woman wooden woods world young
"""
"""Common words besides those of the captions, so that the tokenizer has pieces for plain English."""


def vae() -> Any:
    """The autoencoder: eight pixels along a side of a latent."""
    return AutoencoderKL(
        sample_size=SIZE,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=8,
        block_out_channels=(16, 32, 64, 128),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        mid_block_add_attention=False,
    )


def tiny_vae() -> Any:
    """The VAE's twin: its latents, scaled, for a fraction of its work."""
    return AutoencoderTiny(
        encoder_block_out_channels=(32,) * 4,
        decoder_block_out_channels=(24,) * 4,
        num_encoder_blocks=(0, 0, 2, 2),
        num_decoder_blocks=(4, 3, 1, 0),
    )


def unet() -> Any:
    """The denoiser."""
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        norm_num_groups=16,
        block_out_channels=(64, 128, 128),
        attention_head_dim=(2, 4, 4),
        cross_attention_dim=128,
        down_block_types=("CrossAttnDownBlock2D",) * 3,
        up_block_types=("CrossAttnUpBlock2D",) * 3,
    )


def controlnet(base: Any) -> Any:
    """A ControlNet that starts as a copy of the base's first half."""
    return ControlNetModel.from_unet(
        base, conditioning_channels=3, conditioning_embedding_out_channels=(16, 16, 32, 64)
    )


def text_encoder(words: Any) -> Any:
    """The text encoder for a tokenizer of these ``words``."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            projection_dim=128,
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
        )
    )


def tokenizer(captions: Iterable[str]) -> Any:
    """CLIP's tokenizer with byte pairs of our own: other English falls into smaller pieces, to bytes."""
    words = CLIPTokenizer()  # empty: lends the way it splits text into words and bytes
    first, last = words.bos_token, words.eos_token
    alphabet = sorted(ByteLevel.alphabet())
    learner = Tokenizer(BPE(unk_token=last, end_of_word_suffix="</w>"))
    learner.normalizer = words.backend_tokenizer.normalizer
    learner.pre_tokenizer = words.backend_tokenizer.pre_tokenizer
    learner.train_from_iterator(
        chain(captions, ENGLISH.split()),
        BpeTrainer(
            vocab_size=PIECES, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
        ),
    )
    learned = json.loads(learner.to_str())["model"]
    pieces = [
        *alphabet,
        *(letter + "</w>" for letter in alphabet),
        *("".join(pair) for pair in learned["merges"]),
    ]
    vocabulary = {piece: i for i, piece in enumerate([*dict.fromkeys(pieces), first, last])}
    return CLIPTokenizer(
        vocab=vocabulary, merges=[tuple(pair) for pair in learned["merges"]], model_max_length=TOKENS
    )


def flow_transformer(heads: int = 6, double: int = 3, single: int = 6) -> Any:
    """The flow model's denoiser: FLUX.1's, small, of so many blocks of its two kinds."""
    network = FluxTransformer2DModel(
        in_channels=4 * 4,  # of 2x2 latents
        num_layers=double,
        num_single_layers=single,
        attention_head_dim=32,
        num_attention_heads=heads,
        axes_dims_rope=(8, 12, 12),
        joint_attention_dim=128,
        pooled_projection_dim=128,
        guidance_embeds=True,
    )
    # Each block begins as the identity and the whole as zero, from where such networks learn best.
    for module in network.modules():
        if isinstance(module, AdaLayerNormZero | AdaLayerNormZeroSingle | AdaLayerNormContinuous):
            nn.init.zeros_(module.linear.weight)
    nn.init.zeros_(network.proj_out.weight)
    return network


def flow_controlnet(transformer: Any) -> Any:
    """A ControlNet of the flow model that starts as a copy of the first of its blocks."""
    return FluxControlNetModel.from_transformer(
        transformer,
        num_layers=1,
        num_single_layers=min(2, transformer.config.num_single_layers),
        attention_head_dim=transformer.config.attention_head_dim,
        num_attention_heads=transformer.config.num_attention_heads,
    )


def t5_encoder(words: Any) -> Any:
    """The flow model's second text encoder, for a tokenizer of these ``words``."""
    return T5EncoderModel(
        T5Config(
            vocab_size=len(words),
            d_model=128,
            d_kv=32,
            d_ff=256,
            num_layers=2,
            num_heads=4,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
            pad_token_id=words.pad_token_id,
            eos_token_id=words.eos_token_id,
        )
    )


def t5_tokenizer(captions: Iterable[str]) -> Any:
    """T5's tokenizer with the words of the captions and of plain English; others fall into letters."""
    words = sorted(set(re.findall("[a-z]+", " ".join([*captions, ENGLISH]).lower())))
    likely = [(f"▁{form}", -1.0) for word in words for form in (word, word.title())]
    letters = [("▁", -2.0), *((chr(code), -10.0) for code in range(33, 127))]
    special = [(piece, 0.0) for piece in ("<pad>", "</s>", "<unk>")]
    return T5Tokenizer([*special, *letters, *likely], extra_ids=0, model_max_length=TOKENS)


def detector() -> Any:
    """Heatmaps of 18 keypoints on frames of 64x64 pixels."""
    return _pixel_unet(3, 18)


def estimator() -> Any:
    """Depth and mask of frames of 128x128 pixels, of which 2x2 are four times the channels at 64x64."""
    return _pixel_unet(3 * 4, 2 * 4)


def _pixel_unet(in_channels: int, out_channels: int) -> Any:
    return UNet2DModel(
        sample_size=64,
        in_channels=in_channels,
        out_channels=out_channels,
        layers_per_block=1,
        norm_num_groups=8,
        block_out_channels=(16, 32, 64, 64),
        down_block_types=("DownBlock2D",) * 4,
        up_block_types=("UpBlock2D",) * 4,
        add_attention=False,
    )


def classifier() -> Any:
    """What reads kind, colour and place of a picture, for measuring."""
    labels = [name for names in GROUPS.values() for name in names]
    return ResNetForImageClassification(
        ResNetConfig(
            embedding_size=24,
            hidden_sizes=[32, 64, 96, 128],
            depths=[1, 1, 1, 1],
            layer_type="basic",
            num_labels=len(labels),
            id2label=dict(enumerate(labels)),
            label2id={label: i for i, label in enumerate(labels)},
        )
    )


def scheduler() -> Any:
    """Of v-prediction with zero terminal SNR: the last step is pure noise, as sampling starts from."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        steps_offset=1,
    )


def load_tokenizer(folder: Path) -> Any:
    """Read a tokenizer that was saved to ``folder``."""
    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


MODEL_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.42.0",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
