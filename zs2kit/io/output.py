"""Output: where and how a clip is written, what would be lost, and what is already there.

Slow modules are imported only where they are needed, since the command line reads its options from `Output`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from zs2kit import __version__
from zs2kit.errors import ClipError, DiskError, UsageError, notify
from zs2kit.files import unwritable, workfolder
from zs2kit.settings import LARGEST, option
from zs2kit.settings import check as check_options

if TYPE_CHECKING:
    from zs2kit.clip import Clip, Color
    from zs2kit.encoding import Encoding
    from zs2kit.io.sequence import Pattern
    from zs2kit.io.streams import Track
    from zs2kit.journal import Left

CodecName = Literal["h264", "ffv1", "prores", "png", "tiff", "dpx", "exr", "jpeg", "gif", "webp"]

FORMATS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}  # suffix of a video file -> muxer
PICTURES = {".png", ".tif", ".tiff", ".dpx", ".exr", ".jpg", ".jpeg"}  # suffixes of the files of sequences

_RGB, _LIMITED_RANGE, _FULL_RANGE = 0, 1, 2  # FFmpeg's numbers


@dataclass(frozen=True)
class Codec:
    """A way to store pictures."""

    encoder: str  # FFmpeg's name for it
    suffixes: tuple[str, ...]  # of files that can hold it, the usual one first
    options: dict[str, str]  # the encoder's
    bits: float  # roughly how many bits a pixel takes at the usual quality
    pix_fmt: Callable[[Clip], str]  # FFmpeg's name for the pixel format in which a clip is written
    color: Callable[[Color], Color]  # the colour tags that are written, given the clip's resolved ones
    encoding: Callable[[Encoding], Encoding]  # how pictures are stored, given how the source stores them
    quality: int | None = None  # the usual constant rate factor; None if there is only one quality
    segments: str = "nut"  # the muxer of segments: NUT takes any clock, but not every codec
    reorder: int = 0  # the encoder puts out frames at most so many places before their turn
    animation: str = ""  # FFmpeg's name for the encoder that finally makes an animation of all segments


def halved(pix_fmt: str) -> tuple[bool, bool]:
    """Whether a pixel format has colour samples only for every second column, and for every second row."""
    from av.video.format import VideoFormat

    kind = VideoFormat(pix_fmt)
    if len(kind.components) < 3 and not kind.has_palette:  # grey
        return True, True
    return kind.chroma_width(8) < 8, kind.chroma_height(8) < 8


def _h264_pixels(clip: Clip) -> str:
    return "yuv444p" if clip.width % 2 or clip.height % 2 else "yuv420p"


def _prores_pixels(clip: Clip) -> str:
    if clip.encoding.alpha:
        return "yuva444p10le"
    return "yuv422p10le" if halved(clip.pix_fmt)[0] and not clip.width % 2 else "yuv444p10le"


def _ffv1_pixels(clip: Clip) -> str:
    target = _unclipped(clip.encoding)
    if target.bits <= 8:
        return "bgra" if target.alpha else "bgr0"
    return f"gbr{'a' if target.alpha else ''}p{target.bits}le"


def _rgb_pixels(clip: Clip, order: str) -> str:
    """``order``: the byte order of 16-bit numbers, be or le."""
    target = _whole(clip.encoding)
    if target.bits <= 8:
        return "rgba" if target.alpha else "rgb24"
    return f"{'rgba64' if target.alpha else 'rgb48'}{order}"


def _dpx_pixels(clip: Clip) -> str:
    target = _whole(clip.encoding)
    deep = target.bits in (10, 12) and not target.alpha
    return f"gbrp{target.bits}le" if deep else _rgb_pixels(clip, "le")


def _exr_pixels(clip: Clip) -> str:
    return "gbrapf32le" if clip.encoding.alpha else "gbrpf32le"


def _shown(source: Encoding) -> Encoding:
    """As an 8-bit display shows it."""
    return replace(source, bits=8, floating=False, alpha=False, light="display")


def _shown_with_alpha(source: Encoding) -> Encoding:
    return replace(_shown(source), alpha=source.alpha)


def _whole(source: Encoding) -> Encoding:
    """In whole numbers, as a display shows it."""
    return replace(source, bits=16 if source.floating else source.bits, floating=False, light="display")


def _unclipped(source: Encoding) -> Encoding:
    """In whole numbers; HDR stays HDR."""
    light = source.light if source.is_hdr else "display"
    deep = min(each for each in (8, 10, 12, 16) if each >= source.bits) if not source.floating else 16
    return replace(source, bits=deep, floating=False, light=light)


def _linear(source: Encoding) -> Encoding:
    """Scene-linear; half floats are enough for sources that aren't in floats."""
    return replace(source, bits=source.bits if source.floating else 16, floating=True, light="linear")


def _rgb_color(color: Color) -> Color:
    return replace(color, colorspace=_RGB, range=_FULL_RANGE)


def _prores_color(color: Color) -> Color:
    # ProRes has limited range only, and only these matrices.
    matrix = color.colorspace if color.colorspace in (1, 9) else 6
    return replace(color, colorspace=matrix, range=_LIMITED_RANGE)


def _jpeg_color(color: Color) -> Color:
    return replace(color, colorspace=6, range=_FULL_RANGE)  # the only ones that JPEG has


def _animation(encoder: str, suffix: str, bits: float) -> Codec:
    return Codec(
        "ffv1",
        (suffix,),
        {"g": "1"},
        bits,
        lambda clip: "bgra" if clip.encoding.alpha else "bgr0",
        _rgb_color,
        _shown_with_alpha,
        animation=encoder,
    )


CODECS = {
    "h264": Codec(
        "libx264",
        (".mp4", ".mov", ".mkv"),
        {"mbtree": "0"},  # with its macroblock tree, x264 doesn't always give the same result
        bits=0.25,
        pix_fmt=_h264_pixels,
        color=lambda color: color,
        encoding=_shown,
        quality=18,
        reorder=2,  # b-pyramid
    ),
    # Lossless, in RGB; each picture is coded on its own, in slices with checksums
    "ffv1": Codec("ffv1", (".mkv",), {"g": "1", "slicecrc": "1"}, 12.0, _ffv1_pixels, _rgb_color, _unclipped),
    # For video editors
    "prores": Codec(
        "prores_ks", (".mov", ".mkv"), {}, 4.0, _prores_pixels, _prores_color, _unclipped, segments="mov"
    ),
    # Sequences of pictures
    "png": Codec("png", (".%04d.png",), {}, 14.0, partial(_rgb_pixels, order="be"), _rgb_color, _whole),
    "tiff": Codec(
        "tiff",
        (".%04d.tif", ".%04d.tiff"),
        {"compression_algo": "deflate"},
        14.0,
        partial(_rgb_pixels, order="le"),
        _rgb_color,
        _whole,
        segments="mov",
    ),
    "dpx": Codec("dpx", (".%04d.dpx",), {}, 24.0, _dpx_pixels, _rgb_color, _whole, segments="mov"),
    "exr": Codec(
        "exr",
        (".%04d.exr",),
        {"compression": "zip16"},
        24.0,
        _exr_pixels,
        _rgb_color,
        _linear,
        segments="mov",
    ),
    "jpeg": Codec(
        "mjpeg",
        (".%04d.jpg", ".%04d.jpeg"),
        {"qmin": "1", "qmax": "1"},
        4.0,
        lambda clip: "yuvj444p",
        _jpeg_color,
        _shown,
        segments="mov",
    ),
    # Animations for the web
    "gif": _animation("gif", ".gif", bits=4.0),
    "webp": _animation("libwebp_anim", ".webp", bits=1.0),
}


def codec_for(path: Path) -> str:
    """Return the name of the codec that a file's suffix stands for."""
    ending = path.suffix.lower()
    return next((name for name, it in CODECS.items() if ending in map(_ending, it.suffixes)), "h264")


def _ending(suffix: str) -> str:
    return f".{suffix.rpartition('.')[2]}"


@dataclass(frozen=True)
class Output:
    """Where and how a clip is written.

    Raises `UsageError` for options that are not allowed, or that can't be combined.
    """

    path: Path = field(metadata={"positional": True})
    codec: CodecName | None = option(
        None,
        "How the result is stored: h264, for players; ffv1, lossless, in .mkv; prores, for video editors, in "
        ".mov or .mkv; gif and webp, for the web; the others are pictures, named NAME.%04d.png.",
        shown="as the result's name says; h264 for .mp4, .mov and .mkv",
    )
    quality: int | None = option(
        None,
        "The constant rate factor of h264: 0 is lossless, which many players can't play; 51 is the worst.",
        minimum=0,
        maximum=51,
        shown="18",
    )
    even_size: bool = option(
        False,
        "If a side is odd, add a row or a column: h264 of odd sizes is 4:4:4, which many players can't play.",
    )
    start_number: int | None = option(
        None,
        "The number of the first picture, if the result is a sequence of pictures.",
        minimum=0,
        shown="the source's, if that is a sequence too, else 1",
    )
    sound: Literal["keep", "none", "aac"] = option(
        "keep",
        "The source's sound: keep copies it unchanged, none leaves it out, aac encodes it as AAC, which "
        "every file can hold.",
    )
    overwrite: bool = option(False, "Replace files that exist.")
    resume: bool | None = option(
        None,
        "Resume an interrupted edit of this result, or start again.",
        shown="ask",
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))
        check_options(self)
        path, pattern = self.path, self.pattern
        suffix, suffixes = path.suffix.lower(), self.store.suffixes
        name = self.codec or codec_for(path)
        if suffix in PICTURES and not pattern:
            raise UsageError(
                f"can't write {path.name}: pictures are numbered", f"name them {path.stem}.%04d{path.suffix}"
            )
        if not any(suffix in map(_ending, it.suffixes) for it in CODECS.values()):
            endings = ", ".join([*FORMATS, ".gif", ".webp"])
            raise UsageError(
                f"can't write {path.name}", f"give it a name that ends in {endings} or .%04d.png"
            )
        if suffix not in map(_ending, suffixes):
            raise UsageError(
                f"can't write {path.name}: {name} goes into {' or '.join(suffixes)}",
                "change the name's ending, or the codec",
            )
        if self.start_number is not None and not pattern:
            raise UsageError(
                f"`start_number` is for sequences of pictures (shot.%04d.png), not for {path.name}",
                "leave it out",
            )
        if self.quality is not None and self.store.quality is None:
            raise UsageError(f"`quality` is for h264, but {name} has only one quality", "leave it out")
        if self.even_size and self.store.encoder != "libx264":
            raise UsageError(f"`even_size` is for h264, but {name} stores any size", "leave it out")

    @property
    def store(self) -> Codec:
        """The codec."""
        return CODECS[self.codec or codec_for(self.path)]

    @property
    def is_film(self) -> bool:
        """Whether the result is a file that can hold sound."""
        return not (self.pattern or self.store.animation)

    def size(self, clip: Clip) -> tuple[int, int]:
        """Return the (width, height) with which the pictures of ``clip`` are stored."""
        even = 2 if self.even_size else 1
        return -(-clip.width // even) * even, -(-clip.height // even) * even

    def pix_fmt(self, clip: Clip) -> str:
        """Return FFmpeg's name for the pixel format in which ``clip`` is stored."""
        return "yuv420p" if self.even_size else self.store.pix_fmt(clip)

    @property
    def pattern(self) -> Pattern | None:
        """The pattern of the file names if the result is a sequence of pictures; else None."""
        from zs2kit.io.sequence import Pattern

        return Pattern.of(self.path)

    def number(self, clip: Clip) -> int:
        """Return the number of the first picture, if ``clip`` is written as a sequence of pictures."""
        from zs2kit.io.sequence import first_number

        return first_number(clip) if self.start_number is None else self.start_number

    def check(self, clip: Clip) -> None:
        """Raise `ClipError` if `zs2kit.write` can't write this clip there."""
        from zs2kit import journal
        from zs2kit.io.sequence import check_pictures
        from zs2kit.io.streams import tracks

        path, pattern = self.path, self.pattern
        if self.store.encoder == "libx264" and max(clip.width, clip.height) > LARGEST:
            raise ClipError(
                f"{path} would be {clip.width}x{clip.height} pixels, but h264 stores no more than "
                f"{LARGEST}x{LARGEST}",
                "make it smaller, or use `codec='ffv1'`",
            )
        if os.path.isdir(path):
            raise ClipError(f"{path} is a folder", "name a file in it")
        if not os.path.isdir(path.parent):
            raise ClipError(f"there is no folder {path.parent}", "create it first")
        journal.check(path, self.resume)
        self._check_space(clip)
        if pattern:
            check_pictures(path, pattern, clip, self.number(clip), self.overwrite)
            _touch(path, pattern.path(self.number(clip)).name)
            return
        if os.path.lexists(path):
            source = clip.source if clip.source and os.path.exists(clip.source) else None
            if source and os.path.exists(path) and path.samefile(source):
                raise ClipError(f"{path} is the source itself", "choose another name")
            if not self.overwrite:
                left = " and nothing is left to resume" if self.resume and not journal.saved(path) else ""
                raise ClipError(
                    f"{path} exists{left}", "choose another name, or allow overwriting: `overwrite=True`"
                )
        _touch(path, path.name)
        if not self.is_film:
            return
        sounds = [each for each in self.tracks(clip) if each.kind == "sound"]
        if sounds and not any(each.held for each in sounds):
            ways = ["have it encoded as AAC (`sound='aac'`)"] if any(each.codec for each in sounds) else []
            for suffix in self.store.suffixes:
                if any(each.held for each in tracks(clip, suffix) if each.kind == "sound"):
                    ways.append(f"write to a {suffix} file")
            raise ClipError(
                f"{path.suffix} can't hold the sound of {clip.source} "
                f"({sounds[0].codec or 'of an unknown codec'})",
                " or ".join(ways or ["leave it out (`sound='none'`)"]),
            )

    def bytes(self, clip: Clip, frames: int) -> int:
        """Return roughly how many bytes the pictures of so many frames will take."""
        usual = self.store.quality
        halvings = 0.0 if usual is None or self.quality is None else (self.quality - usual) / 6
        deep = self.store.encoding(clip.encoding).bits / 8  # codecs with one quality only are large
        bits = self.store.bits * (deep if usual is None else 1)
        return round(frames * clip.width * clip.height * bits / 8 / 2**halvings)

    def _check_space(self, clip: Clip) -> None:
        """Raise `DiskError` if the disk has no room for the result and the files that it takes meanwhile."""
        from zs2kit.journal import SEGMENT

        if clip.frame_count is None:
            return
        pictures = min(clip.frame_count, SEGMENT) * clip.width * clip.height * 3
        needed = 2 * (self.bytes(clip, clip.frame_count) + pictures)  # old ones stay until new ones are there
        free = shutil.disk_usage(self.path.parent).free
        if needed > free:
            raise DiskError(
                f"{self.path} needs about {needed / 1e6:,.0f} MB, but its disk has only {free / 1e6:,.0f} "
                "MB free",
                "free some space, or write to another disk",
            )

    def copied(self, clip: Clip) -> list[str]:
        """Return the streams of the clip's source that are copied, such as "sound (aac)"."""
        return [
            f"{each.kind} ({each.name if each.kind == 'attachment' else each.codec})"
            for each in self.tracks(clip)
            if each.held
        ]

    def tracks(self, clip: Clip) -> list[Track]:
        """Return what the clip's source has besides its pictures."""
        from zs2kit.io.streams import tracks

        return tracks(clip, self.path.suffix.lower() if self.is_film else "", self.sound)

    def tell_losses(self, clip: Clip) -> None:
        """Send notices about what the clip's source has and the result can't hold."""
        from zs2kit.io.about import About, timecode_at

        path, source = self.path, clip.source
        unheld = [each for each in self.tracks(clip) if not each.held]
        if self.is_film and unheld:
            notify(
                "streams-lost",
                f"{path.suffix} can't hold everything in {source}; left out: {', '.join(map(str, unheld))}",
            )
        elif any(each.kind in ("sound", "subtitles") for each in unheld):
            notify(
                "streams-lost",
                f"{path} is {'an animation' if self.store.animation else 'a sequence of pictures'}, which "
                f"can't hold the sound and the subtitles of {source}",
            )
        stored = "yuv420p" if self.store.animation == "libwebp_anim" else self.pix_fmt(clip)
        if source is not None and halved(stored) > halved(clip.pix_fmt):
            notify(
                "colours-halved",
                f"{path} has one colour sample for each 2x2 pixels, but {source} has more",
                "to keep them, use `codec='ffv1'` or `codec='prores'`",
            )
        if stored == "yuv444p":
            notify(
                "players",
                f"{path} has an odd size, {clip.width}x{clip.height}, so it is h264 in 4:4:4, which many "
                "players can't play",
                "`even_size=True` adds a row or a column, and then all can",
            )
        self._tell_light(clip)
        if self.store.animation:
            self._tell_web(clip)
        about = About.of(source)
        if self.is_film and about.timecode and timecode_at(about, clip, about.begin) is None:
            notify(
                "timecode-lost",
                f"the timecode {about.timecode} of {source} isn't valid for {float(clip.rate):g} frames per "
                f"second, so {path} has none",
            )

    def _tell_web(self, clip: Clip) -> None:
        """Send notices about what browsers can't show."""
        if self.store.animation == "gif":
            notify("colours-lost", f"{self.path} has 256 colours", "a .webp file has all of them")
            if clip.encoding.alpha:
                notify("alpha-lost", f"a pixel of {self.path} is transparent or opaque, nothing in between")
        if clip.sample_aspect_ratio != 1:
            notify(
                "aspect-lost",
                f"the pixels of {clip.source} are not square, but browsers show {self.path} as if they were",
            )

    def _tell_light(self, clip: Clip) -> None:
        """Send notices about what the source's pictures have that this codec can't store."""
        path, was, now = self.path, clip.encoding, self.store.encoding(clip.encoding)
        name = clip.source or "the clip"
        if was.is_hdr and not now.is_hdr:
            notify(
                "hdr-lost",
                f"{path} is SDR (BT.709), but {name} is HDR ({was.light.upper()})",
                "to keep HDR, use `codec='prores'` or `codec='ffv1'`",
            )
        elif was.light == "linear" and now.light != "linear":
            notify(
                "light-lost",
                f"{path} is stored as a display shows it, but {name} is scene-linear",
                "to keep its light values, write .%04d.exr",
            )
        elif was.bits > now.bits:
            notify(
                "depth-lost",
                f"{path} stores {now.bits} bits per colour, but {name} has {was.bits}",
                "to keep them, use `codec='prores'`, `codec='ffv1'`, or pictures",
            )
        if was.alpha and not now.alpha:
            notify(
                "transparency-lost",
                f"{name} is transparent in places, but {path} will not be",
                "to keep that, use `codec='prores'`, `codec='ffv1'`, or pictures such as .%04d.png",
            )

    def described(self, clip: Clip) -> dict[str, Any]:
        """Return what the file depends on besides the frames, for JSON."""
        import av

        width, height = self.size(clip)
        return {
            "zs2kit": __version__,
            "av": av.__version__,
            "codec": self.codec or codec_for(self.path),
            "quality": self.store.quality if self.quality is None else self.quality,
            "sound": self.sound,
            "width": width,
            "height": height,
            "rate": str(clip.rate),
            "time base": str(clip.time_base),
            "sample aspect ratio": str(clip.sample_aspect_ratio),
            "color": asdict(clip.color),
            "encoding": asdict(clip.encoding),
        }

    def left(self, clip: Clip) -> tuple[Left | None, str]:
        """Return how much of an interrupted edit is saved, and which of its settings differ from ``clip``'s.

        The former is None if nothing is saved, and the latter is empty if no setting differs.
        """
        from zs2kit import journal

        left = journal.saved(self.path)
        return left, journal.differing(self.path, clip, self.described(clip)) if left else ""


def name_beside(clip: Path, word: str, codec: str | None = None) -> Path:
    """Return a name for a result next to its source, such as clip-pose.mp4 or shot-pose.%04d.png."""
    from zs2kit.io.sequence import Pattern

    pattern = Pattern.of(clip)
    if pattern is None or os.path.lexists(clip):
        stem, suffix = clip.stem, clip.suffix
    else:
        stem = pattern.before.rstrip("._- ")
        suffix = clip.name[len(stem) :]
    suffixes = CODECS[codec or (codec_for(clip) if pattern else "h264")].suffixes
    if _ending(suffix).lower() not in map(_ending, suffixes):
        suffix = suffixes[0]
    return clip.with_name("-".join(filter(None, [stem, word])) + suffix)


def _touch(path: Path, name: str) -> None:
    """Raise `ClipError` if a file called ``name`` can't be created next to ``path``."""
    with workfolder(path) as folder:
        try:
            (folder / name).touch()
        except OSError as error:  # too long a name
            raise unwritable(path, error) from error
