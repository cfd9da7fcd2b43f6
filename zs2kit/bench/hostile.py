"""Hostile input of five kinds, for `zs2kit.bench.fuzz`: what is mutated, how, and what takes it in."""

from __future__ import annotations

import io as text_io
import json
import math
import os
import pickle
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from fractions import Fraction
from functools import partial
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import av
import click
import torch
from safetensors.torch import save

from zs2kit import cli, io, journal
from zs2kit.bench.kills import with_sound
from zs2kit.carry import Carry
from zs2kit.clip import Clip, Fit, Frame
from zs2kit.companion import Companion
from zs2kit.editing import edit, generate
from zs2kit.errors import Zs2Error
from zs2kit.files import checksum
from zs2kit.model import Model
from zs2kit.networks import loading
from zs2kit.scan import chunk_of
from zs2kit.testing import drawn_clip, tiny_model
from zs2kit.verify import verify

Attempt = Callable[[Random], None]  # of one case, which the dice decide; it works in the current folder

_NUMBERS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF)


# ---- what is done to bytes, texts and JSON


def damaged(data: bytes, dice: Random, others: Sequence[bytes] = (b"",)) -> bytes:
    """Return ``data`` with bits flipped, numbers over-reported, and parts cut, doubled, or of ``others``."""
    made = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 4, 16))):
        start = dice.choice((dice.randrange(len(made) + 1), dice.randrange(min(len(made), 512) + 1)))
        length = dice.choice((1, 4, 16, 256))
        how = dice.randrange(7)
        if how == 0:
            if start < len(made):
                made[start] ^= 1 << dice.randrange(8)
        elif how == 1:
            made[start : start + length] = dice.randbytes(length)
        elif how == 2:
            size = dice.choice((1, 2, 4, 8))
            number = dice.choice(_NUMBERS) & (1 << 8 * size) - 1
            made[start : start + size] = number.to_bytes(size, dice.choice(("big", "little")))
        elif how == 3 and dice.random() < 0.3:
            del made[start:]
        elif how == 4:
            del made[start : start + length]
        elif how == 5:
            made[start:start] = made[start : start + length]
        elif how == 6:
            other = dice.choice(others)
            at = dice.randrange(len(other) + 1)
            made[start : start + length] = other[at : at + length]
    return bytes(made)


_ODD = (
    *("", " ", "0", "-1", "1e999", "nan", "inf", "-0", "9" * 400, "9" * 5000, "1/0", "0/1", "٣", "1_000"),
    *(
        "=",
        ".",
        ":",
        ",",
        "%",
        "%s",
        "{}",
        "\n",
        "\t",
        "'",
        '"',
        "../",
        "x",
        "\u202e",
        "\udcff",
        "🤖",
        "none",
    ),
    *("--", "a" * 300, "a " * 300, "NaN", "1e-400", "0x10", "True", "²", "\x1b[31m", "~", "$HOME", "%04d"),
)


def odd(text: str, dice: Random) -> str:
    """Return ``text`` with a few of its characters changed, or something else."""
    for _ in range(dice.choice((1, 1, 2, 3))):
        start = dice.randrange(len(text) + 1)
        text = text[:start] + dice.choice(_ODD) + text[start + dice.choice((0, 0, 1, 2, 99)) :]
    return text if dice.random() < 0.8 else dice.choice(_ODD)


_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 3, 7, 2**31, 2**63, 10**30, 1e300, 0.5, math.nan, "", "x", "../x", "/x"),
    *([], {}, [0], [[]], {"a": 1}, ["os", "system"], "🤖", "x" * 300),
)


def other(value: Any, dice: Random) -> Any:
    """Return something of JSON with one thing in it changed, removed, doubled, or of another type."""
    if isinstance(value, dict) and value and dice.random() < 0.9:
        key = dice.choice(sorted(value))
        how = dice.random()
        if how < 0.1:
            return {each: value[each] for each in value if each != key}
        if how < 0.2:
            return {**value, odd(key, dice): value[key]}
        return {**value, key: other(value[key], dice)}
    if isinstance(value, list) and value and dice.random() < 0.8:
        index = dice.randrange(len(value))
        middle = dice.choice(([], [other(value[index], dice)], [value[index]] * 2))
        return value[:index] + middle + value[index + 1 :]
    if isinstance(value, str) and dice.random() < 0.5:
        return odd(value, dice)
    if isinstance(value, int | float) and dice.random() < 0.5:
        return dice.choice((-value, value + 1, value - 1, value * 2, value * 1000))
    return dice.choice(_VALUES)


class Bomb:
    """A pickle that makes the file ``BOMB`` beside the folder that it is read in."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, ...]]:
        return os.system, ("touch ../BOMB",)


# ---- containers, and control clips


def _remuxed(source: Path, target: Path) -> Path:
    """Write the packets of a clip into another container, with tags, chapters and, in MOV, a timecode."""
    with av.open(str(source)) as container, av.open(str(target), "w") as output:
        output.metadata["title"] = "a film"
        copies = {each.index: output.add_stream_from_template(each) for each in container.streams}
        if target.suffix == ".mov":
            copies[0].metadata["timecode"] = "01:02:03:04"
        if target.suffix != ".ts":
            first = {"id": 1, "start": 0, "end": 200, "time_base": Fraction(1, 1000)}
            output.set_chapters([{**first, "metadata": {"title": "arrival"}}])  # type: ignore[typeddict-item]
        for packet in container.demux():
            if packet.size:
                packet.stream = copies[packet.stream.index]
                output.mux(packet)
    return target


def _films(folder: Path) -> list[Path]:
    """Small clips with sound, in each container and codec."""
    film = with_sound(io.write(folder / "film.mp4", drawn_clip(6), quality=20))
    others = [_remuxed(film, folder / f"film{suffix}") for suffix in (".mov", ".mkv", ".ts")]
    lossless = io.write(folder / "lossless.mkv", drawn_clip(4), codec="ffv1")
    return [film, *others, lossless, io.write(folder / "prores.mov", drawn_clip(3), codec="prores")]


def _sequence(folder: Path) -> list[bytes]:
    io.write(folder / "shot.%04d.png", drawn_clip(3))
    return [path.read_bytes() for path in sorted(folder.glob("shot.*.png"))]


def _damaged_picture(data: bytes, dice: Random) -> bytes:
    """A PNG picture with another size in its head, and the checksum of that; or one that is just damaged."""
    if dice.random() < 0.7:
        return damaged(data, dice)
    sides = [dice.choice((0, 1, 31, 33, 40_000, 2**31 - 1, 2**32 - 1)) for _ in range(2)]
    head = b"IHDR" + struct.pack(">IIBBBBB", *sides, *(dice.choice((0, 1, 2, 6, 8, 16)) for _ in range(5)))
    return data[:12] + head + struct.pack(">I", zlib.crc32(head)) + data[33:]


def _write_damaged(films: Sequence[Path], pictures: Sequence[bytes], dice: Random) -> Path:
    """Write a damaged clip to the current folder; return its name, which may be that of a sequence."""
    if dice.random() < 0.2:
        hit = dice.randrange(len(pictures))
        for number, data in enumerate(pictures, 1):
            Path(f"clip.{number:04}.png").write_bytes(
                _damaged_picture(data, dice) if number == hit + 1 else data
            )
        return Path("clip.%04d.png")
    source = dice.choice(films)
    path = Path(f"clip{source.suffix}")
    contents = [each.read_bytes() for each in films]
    path.write_bytes(damaged(source.read_bytes(), dice, contents))
    return path


def containers(folder: Path) -> Attempt:
    """Damaged clips are opened, and their first frames decoded; some are copied and verified as a whole."""
    films, pictures = _films(folder), _sequence(folder)

    def attempt(dice: Random) -> None:
        path = _write_damaged(films, pictures, dice)
        start = Fraction(dice.randrange(6), 12) if dice.random() < 0.1 else None
        clip = io.read(path, start=start)
        for frame in islice(clip, 3):
            assert frame.image.shape == (clip.height, clip.width, 3)
        if dice.random() < 0.1 and clip.width * clip.height < 1 << 16:
            result = io.write("result.mkv", io.read(path, start=start), codec="ffv1")
            verify(path, result, start=start)

    return attempt


def control_clips(folder: Path) -> Attempt:
    """Damaged maps and masks, clips, pictures and sequences, are read in step with a clip that is whole."""
    films, pictures = _films(folder), _sequence(folder)
    fit = Fit.into((32, 32), (32, 32), 8)
    masks = [_remuxed(films[0], folder / f"mask{suffix}") for suffix in (".mkv", ".mov")]

    def attempt(dice: Random) -> None:
        path = _write_damaged([*films[:4], *masks], pictures, dice)
        if path.suffix == ".png" and dice.random() < 0.5:  # one picture for all frames
            path = Path("clip.0001.png")
            path.write_bytes(_damaged_picture(pictures[0], dice))
        clip = drawn_clip(6)
        companion = Companion(path, clip)
        for index, frames in enumerate(clip.chunks(2)):
            chunk = chunk_of(clip, frames, 2 * index, fit)
            for image in companion.frames_of(chunk):
                assert image.shape == (clip.height, clip.width, 3)
        companion.finish(6)

    return attempt


# ---- option strings


_WRITTEN = {  # as one would write them, by the names of click's parameters
    "start": "0:00.1",
    "end": "0.4",
    "fps": "30000/1001",
    "cuts": "0.2,0:00.3",
    "size": "64x48",
    "loras": "chalk:0.5",
    "names": "pose",
    "settings": "pose.scale=0.8",
    "prompts": "a cat",
    "sheet": "sheet.png",
    "report": "report.json",
    "name": "soft_edges",
    "model": "./absent",
    "device": "cpu",
}
_KEPT = {"clip", "model", "features", "config", "result", "source", "region"}  # these are files


def _words(command: click.Command, dice: Random) -> list[str]:
    """A command line of some of the command's options, some of them odd."""
    words: list[str] = []
    chosen = [each for each in command.params if dice.random() < 0.15 or each.name == "model"]
    for parameter in chosen:
        if not isinstance(parameter, click.Option) or parameter.is_flag:
            words += parameter.opts[:1] if isinstance(parameter, click.Option) else []
            continue
        kind = parameter.type
        usual = dice.choice(kind.choices) if isinstance(kind, click.Choice) else "1"
        value = _WRITTEN.get(parameter.name or "", usual)
        if parameter.name not in _KEPT and dice.random() < 0.7:
            value = odd(value, dice)
        words += [parameter.opts[0], *(["3"] if parameter.nargs == 2 else []), value]
        if parameter.name == "settings" and dice.random() < 0.8:
            words += ["--plugin", value.partition(".")[0] or "pose"]
    for parameter in command.params:
        if isinstance(parameter, click.Argument):
            value = _WRITTEN.get(parameter.name or "", "film.mp4")
            words.append(odd(value, dice) if parameter.name not in _KEPT else value)
    return words


def _spoken(words: Sequence[str]) -> None:
    """Run a command line; `Zs2Error` if it ends in one line that says why, AssertionError in another way."""
    out, err = text_io.TextIOWrapper(text_io.BytesIO()), text_io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            cli.main(list(words))
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
    lines = err.getvalue().splitlines()
    assert code in (0, 1, 2), (words, code)
    # --progress json prints objects
    assert all(line.startswith(("zs2kit:", '{"stage": ')) for line in lines), (words, lines)
    if code:
        assert sum(line.startswith("zs2kit: error: ") for line in lines) == 1, (words, lines)
        raise Zs2Error(lines[-1])


def option_strings(folder: Path) -> Attempt:
    """Odd command lines, which end where the model is missing at the latest; and odd arguments of Python."""
    film = io.write(folder / "film.mp4", drawn_clip(6)).read_bytes()
    model = Model.load(tiny_model(folder / "model"))
    # The web page is served until it is stopped.
    commands = {name: each for name, each in cli.main.commands.items() if name not in ("plugins", "web")}

    def attempt(dice: Random) -> None:
        Path("film.mp4").write_bytes(film)
        how = dice.random()
        if how < 0.1:
            _spoken(["plugins", *dice.choice(([], ["new"], ["--json"])), odd(_WRITTEN["name"], dice)])
        elif how < 0.7:
            name = dice.choice(("edit", "generate", dice.choice(list(commands))))
            _spoken([name, *_words(commands[name], dice)])
        else:
            settings: dict[str, Any] = {
                "prompt": {0: "a cat", 3: "a dog"},
                "negative_prompt": "rain",
                "num_inference_steps": 2,
                "guidance_scale": 5.0,
                "momentum": 0.9,
                "divergence": 0.1,
                "size": [32, 32],
                "chunk_size": 2,
                "seed": 1,
                "scheduler": "ddim",
                "noise": "dependency",
            }
            name = dice.choice(list(settings))
            changed = dice.choice((odd("a cat", dice), *(each for each in _VALUES if each is not None)))
            # Python's own types are the caller's business: what is odd is of the right one.
            before = settings[name]
            if name == "prompt" and isinstance(changed, int) and not isinstance(changed, bool):
                settings[name] = {changed: "a cat"}
            elif name == "prompt" and isinstance(changed, str):
                settings[name] = dice.choice((changed, {0: "a cat", 2: changed}))
            elif name == "size" and type(changed) is int:
                settings[name] = [changed, 32]
            elif name in ("prompt", "size"):
                pass
            elif type(changed) is type(before) or (type(before) is float and type(changed) is int):
                settings[name] = changed
            if dice.random() < 0.5:
                edit(drawn_clip(), plugins=(), model=model, **settings)
            else:
                generate(frames=6, model=model, **settings)

    return attempt


# ---- journals


class Drawn(Clip):
    """A clip like an edit, with a carry, but of frames that are there already: nothing is sampled."""

    def __init__(self, frames: int = 10) -> None:
        super().__init__(self, 32, 32, Fraction(12), Fraction(1, 12), frames)
        self.images = [frame.image for frame in drawn_clip(frames)]
        self.index = 0
        self.carry = Carry(noise=torch.ones(1, 4, 4, 4))
        self.steps = 0
        self.chunk_size: int | None = 2

    def __iter__(self) -> Iterator[Frame]:
        return self.frames_from(0)

    def frames_from(self, index: int, carry: Carry | None = None, between: object = None) -> Iterator[Frame]:
        """As of an edit."""
        self.index = index
        while self.index < len(self.images):
            first = self.index
            self.index = min(len(self.images), first + (self.chunk_size or 1))
            for pts in range(first, self.index):
                yield Frame(self.images[pts], pts, 1)

    def stop(self) -> None:
        """As of an edit: the next frame is the last."""
        self.images = self.images[: self.index]

    def describe(self) -> dict[str, Any]:
        """What an edit's settings are like."""
        return {"prompt": "a cat", "plugins": {"pose": {"scale": 1.0}}}


class _Stop(Exception):
    pass


def interrupted(out: Path, frames: int, **how: Any) -> Path:
    """Write a clip, stop after so many frames, and return the folder with what is kept of it."""

    def stop(done: int) -> None:
        if done == frames:
            raise _Stop

    with suppress(_Stop):
        io.write(out, Drawn(), progress=stop, **how)
    return journal._folder_of(out)


def journals(folder: Path) -> Attempt:
    """Clips of which a part was made are gone on with, by journals that are damaged or lie."""
    journal.SEGMENT, journal.SHARE = 4, math.inf
    names = {"a.mkv": "ffv1", "a.mp4": "h264", "a.%04d.png": "png"}
    kept = []
    for frames in (2, 6, 8):
        (folder / str(frames)).mkdir()
        for name, codec in names.items():
            kept.append((name, codec, interrupted(folder / str(frames) / name, frames, codec=codec)))
    expected = [image.tobytes() for image in Drawn().images]
    journal.SHARE = 0.02

    def attempt(dice: Random) -> None:
        name, codec, source = dice.choice(kept)
        target = Path(source.name)
        shutil.copytree(source, target)
        lies = dice.random() < 0.5  # with checksums that are right
        about = target / "journal.json"
        edit = json.loads(about.read_text())["edit"]
        hit = dice.choice(sorted(target.iterdir()))
        if hit == about and lies:
            edit = _lying(edit, dice)
        elif dice.random() < 0.2:
            if dice.random() < 0.5:
                hit = target / dice.choice(("journal.new", "000000004.segment", "000000008.rgb", name))
                edit["checksums"][hit.name] = 0
            hit.unlink(missing_ok=True)
            away = dice.choice(("/dev/zero", "../../away"))
            dice.choice((hit.mkdir, partial(hit.symlink_to, away), partial(os.mkfifo, hit), bool))()
        else:
            hit.write_bytes(damaged(hit.read_bytes(), dice, [about.read_bytes()]))
            if lies and hit.name in edit["checksums"]:
                edit["checksums"][hit.name] = checksum(hit)
        if lies and about.is_file():
            write_journal(target, edit)
        resume = dice.choice((True, True, True, None, False))
        io.write(name, Drawn(), codec=codec, resume=resume)
        if not lies and codec == "ffv1":
            assert [frame.image.tobytes() for frame in io.read(name)] == expected, "other frames"

    return attempt


def write_journal(folder: Path, edit: object) -> None:
    """Write a journal.json that says ``edit``, with the checksum of that."""
    text = json.dumps({"edit": edit, "checksum": journal._checksum_of(edit)})
    (folder / "journal.json").write_text(text)


def _lying(edit: dict[str, Any], dice: Random) -> dict[str, Any]:
    """What journal.json says, with something else in it, or with files that lie elsewhere."""
    if dice.random() < 0.7:
        changed = other(edit, dice)
        return changed if isinstance(changed, dict) else {}
    outside = dice.choice(("../../away", "/etc/passwd", "../clip", "away/../../x", "a\0b"))
    checksums = {outside if dice.random() < 0.5 else key: value for key, value in edit["checksums"].items()}
    return {**edit, "checksums": {**checksums, outside: 0}}


# ---- checkpoints


def checkpoints(folder: Path) -> Attempt:
    """Checkpoints, ControlNets, LoRAs and embeddings, damaged, of other configs, or with code in them."""
    from diffusers import ControlNetModel

    whole = tiny_model(folder / "model")
    model = Model.load(whole)
    width = model.unet.config.cross_attention_dim
    layers = [name for name, _ in model.unet.named_modules() if name.endswith(("attn1.to_q", "attn1.to_v"))]
    sides = {name: tuple(model.unet.get_submodule(name).weight.shape) for name in layers}
    lora = save(
        {
            f"unet.{name}.{part}.weight": torch.full(shape, 0.01)
            for name, (out, given) in sides.items()
            for part, shape in (("lora_A", (2, given)), ("lora_B", (out, 2)))
        }
    )
    weights = (whole / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    configs = [path for path in sorted(whole.rglob("*.json")) if "controlnet" not in str(path)]
    contents = [lora, weights]

    def attempt(dice: Random) -> None:
        how = dice.random()
        if how < 0.5:
            vector = save({f"<{dice.randrange(10**9)}>": torch.ones(1, width)})
            file = _given("token.safetensors", vector, contents, dice)
            loading.add_embedding(model.pipeline, model.name, "token", file)
        elif how < 0.75:
            file = _given("look.safetensors", lora, contents, dice)
            loading.add_lora(model.pipeline, model.name, "look", file, 0.5)
        elif how < 0.85:
            network = _copied(whole / "controlnet_pose", Path("controlnet"))
            _changed(network, [dice.choice(sorted(network.iterdir()))], dice)
            model.load_network(ControlNetModel, network)
        elif how < 0.88:
            file = _given("single.safetensors", weights, contents, dice)
            Model.load(file, config=whole, device="cpu")
        else:
            copy = _copied(whole, Path("model"))
            if dice.random() < 0.3:
                part = dice.choice(("unet", "vae", "scheduler", "text_encoder", "tokenizer"))
                booby_trapped(copy, dice.randrange(TRAPS), part, dice)
            else:
                files = [copy / each.relative_to(whole) for each in configs]
                parts = sorted(copy.rglob("model.safetensors")) + sorted(copy.glob("*/diffusion*"))
                _changed(copy, [dice.choice((files[-1], dice.choice(files), dice.choice(parts)))], dice)
            Model.load(copy, device="cpu")

    return attempt


def _copied(source: Path, target: Path) -> Path:
    return Path(shutil.copytree(source, target))


def _given(name: str, data: bytes, others: Sequence[bytes], dice: Random) -> Path:
    """Write a file of weights: with another head, damaged, or a pickle."""
    path = Path(name)
    how = dice.random()
    if how < 0.1:
        path = path.with_suffix(dice.choice((".safetensors", ".bin", ".pt", ".ckpt")))
        data = pickle.dumps(Bomb())
    elif how < 0.5:
        size = int.from_bytes(data[:8], "little")
        head = json.dumps(other(json.loads(data[8 : 8 + size]), dice)).encode()
        data = len(head).to_bytes(8, "little") + head + data[8 + size :]
    else:
        data = damaged(data, dice, others)
    path.write_bytes(data)
    return path


def _changed(folder: Path, paths: Sequence[Path], dice: Random) -> None:
    """Change files of a checkpoint, in their meaning if they are JSON."""
    for path in paths:
        if path.suffix == ".json" and dice.random() < 0.8:
            path.write_text(json.dumps(other(json.loads(path.read_text()), dice)))
        else:
            path.write_bytes(damaged(path.read_bytes(), dice))


_CODE = "import os\nos.system('touch ../BOMB')\nclass Trap:\n    pass\n"


TRAPS, HARMLESS = 6, 3  # ways; and the one of which only the code is left out


def booby_trapped(folder: Path, how: int, part: str, dice: Random) -> None:
    """Put code into a ``part`` of a checkpoint, in one of the `TRAPS` ways that loaders once fell for."""
    index = json.loads((folder / "model_index.json").read_text())
    if how == 0:  # a pipeline of its own
        (folder / "trap.py").write_text(_CODE)
        index["_class_name"] = dice.choice((["trap", "Trap"], "Trap", ["os", "system"]))
    elif how == 1:  # a component of its own
        (folder / part / "trap.py").write_text(_CODE)
        index[part] = ["trap", "Trap"]
    elif how == 2:  # a class of any installed module
        classes = (["os", "system"], ["subprocess", "Popen"], ["builtins", "eval"], ["zs2kit", "x"])
        index[part] = dice.choice(classes)
    elif how == 3:  # transformers' remote code
        (folder / part / "trap.py").write_text(_CODE)
        for path in (folder / part).glob("*config.json"):
            config = json.loads(path.read_text())
            kinds = ("AutoModel", "AutoConfig", "AutoTokenizer")
            config["auto_map"] = dict.fromkeys(kinds, "trap.Trap")
            config["_class_name"] = dice.choice(("Trap", ["trap", "Trap"], config.get("_class_name")))
            path.write_text(json.dumps(config))
    elif how == 4:  # a pickle instead of weights
        for path in (folder / part).glob("*.safetensors"):
            path.with_suffix(".bin").write_bytes(pickle.dumps(Bomb()))
            path.with_name("pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
            path.unlink()
    else:  # a pickle that says it is safetensors
        for path in (folder / part).glob("*.safetensors"):
            path.write_bytes(pickle.dumps(Bomb()))
    (folder / "model_index.json").write_text(json.dumps(index))


KINDS: dict[str, Callable[[Path], Attempt]] = {
    "containers": containers,
    "control clips": control_clips,
    "option strings": option_strings,
    "journals": journals,
    "checkpoints": checkpoints,
}
