"""Clips as they come: a table of the ways in which files differ, and of those in which they are damaged.

`make` encodes drawn frames in a way of our own; the rest of a clip's making is done to the file's bytes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import av
import cv2
import numpy as np
from av.video.frame import VideoFrame
from PIL import Image

from zs2kit.clip import Color, Frame

BT709, BT601 = 1, 6
LIMITED, FULL = 1, 2
SUFFIXES = (".mp4", ".mov", ".mkv")


def drawn(index: int, width: int = 64, height: int = 48) -> np.ndarray:
    """Smooth colours, so that what chroma subsampling loses is small, and a bar that tells the frame."""
    y, x = np.mgrid[0:height, 0:width]
    image = np.stack([40 + 160 * x // width, 40 + 160 * y // height, 0 * x + 120], -1).astype(np.uint8)
    image[: height // 4, : max(1, (index * 4) % width)] = (200, 60, 60)
    return image


def make(
    path: Path,
    *,
    frames: int = 12,
    width: int = 64,
    height: int = 48,
    pts: list[int] | None = None,
    time_base: Fraction = Fraction(1, 12800),
    rate: Fraction = Fraction(25),
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    color: Color | None = None,
    matrix: int | None = None,
    sar: Fraction = Fraction(1),
    turn: int = 0,
    sound: str = "",  # codecs, a stream for each
    sound_seconds: float | None = None,
    movflags: str = "",
) -> Path:
    """Encode drawn frames, and a tone, in a way of our own."""
    color = color or Color()
    matrix = matrix or (BT709 if color.colorspace == BT709 else 5)
    step = round(1 / (time_base * rate))
    pts = pts if pts is not None else [index * step for index in range(frames)]
    options_of_file = {"movflags": movflags} if movflags else {}
    with ordinary_priority(), av.open(str(path), "w", container_options=options_of_file) as container:
        video = container.add_stream(codec, rate, width=width, height=height)
        video.pix_fmt = pix_fmt
        context = video.codec_context
        context.time_base, context.sample_aspect_ratio = time_base, sar
        context.colorspace, context.color_range = color.colorspace, color.range
        context.color_primaries, context.color_trc = color.primaries, color.trc
        video.options = {"crf": "8"} if options is None and codec == "libx264" else options or {}
        if turn:
            video.set_display_rotation(turn)
        tracks = [container.add_stream(name, 48000) for name in sound.split()]
        for audio in tracks:
            audio.layout = "mono"
        for index, moment in enumerate(pts):
            image = drawn(index, width, height)
            clear = pix_fmt in ("rgba", "yuva420p")
            if clear:
                image = np.dstack([image, np.full((height, width), 128, np.uint8)])
            picture = VideoFrame.from_ndarray(image, "rgba" if clear else "rgb24").reformat(
                format=pix_fmt, dst_colorspace=matrix, dst_color_range=color.range or LIMITED
            )
            picture.pts, picture.time_base = moment, time_base
            container.mux(video.encode(picture))
        container.mux(video.encode())
        seconds = sound_seconds or float(pts[-1] * time_base + 1 / rate)
        for number, audio in enumerate(tracks, 1):
            tone = (8000 * np.sin(np.arange(int(seconds * 48000)) * 0.05 * number)).astype(np.int16)[None]
            whole = av.AudioFrame.from_ndarray(tone, format="s16", layout="mono")
            whole.sample_rate, whole.pts = 48000, 0
            resampler = av.AudioResampler(audio.format, "mono", 48000, audio.codec_context.frame_size or 1024)
            for piece in resampler.resample(whole) + resampler.resample(None):
                container.mux(audio.encode(piece))
            container.mux(audio.encode())
    return path


@contextmanager
def ordinary_priority() -> Iterator[None]:
    """Undo what SVT-AV1 does when it runs as root.

    It makes the thread that opens it a real-time one, for which all others on the machine, and their
    watchdogs, have to wait.
    """
    if sys.platform != "linux":
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameters)


def assert_drawn(frames: list[Frame], turn: int = 0, spoilt: Container[int] = ()) -> None:
    """Each frame, but for the spoilt ones, is what was drawn, nearly, and no other frame."""
    for index, frame in enumerate(frames):
        if index in spoilt:
            continue
        size = frame.image.shape[:2] if turn % 180 else frame.image.shape[1::-1]
        errors = [
            np.abs(frame.image.astype(int) - np.rot90(drawn(other, *size), turn // 90)).mean()
            for other in range(max(0, index - 2), index + 3)
        ]
        assert np.argmin(errors) == min(index, 2), f"frame {index} is another one"
        assert min(errors) < 5, f"frame {index} is far from what was drawn"


class Contents(NamedTuple):
    size: tuple[int, int]
    aspect: Fraction  # of a pixel
    rate: Fraction | None
    times: list[float]  # of the frames, in seconds
    end: float  # of the last frame
    tick: float
    sound: list[tuple[float, bytes]]  # time and packet


def contents(path: Path) -> Contents:
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        tick = float(video.time_base)
        packets = [(p.stream, p.pts, p.duration, bytes(p)) for p in container.demux() if p.pts is not None]
        shown = sorted((pts, duration) for stream, pts, duration, _ in packets if stream is video)
        # MP4 stores how long the stream lasts, Matroska how long a frame does.
        mp4 = container.format.name.startswith("mov")
        end = video.start_time + video.duration if mp4 else sum(shown[-1])
        if not shown[-1][1]:  # MPEG-TS says nothing of its last frame
            end += round(1 / (video.average_rate * video.time_base))
        return Contents(
            size=(video.codec_context.width, video.codec_context.height),
            aspect=video.sample_aspect_ratio or Fraction(1),
            rate=video.average_rate,
            times=[pts * tick for pts, _ in shown],
            end=end * tick,
            tick=tick,
            sound=[(float(t * s.time_base), data) for s, t, _, data in packets if s is not video],
        )


class Track(NamedTuple):
    """A tone in a file."""

    codec: str
    rate: int = 48000
    layout: str = "stereo"
    late: float = 0.0  # seconds


# ---- what `make` doesn't do


def sounding(path: Path, *, tracks: tuple[Track, ...], frames: int = 25) -> Path:
    """A clip with other sounds than `make` can encode."""
    picture_codec = "mpeg4" if path.suffix in (".avi", ".wmv", ".3gp") else "libx264"
    packets = []
    with av.open(str(path), "w") as container:
        video = container.add_stream(picture_codec, 25, width=64, height=48)
        video.pix_fmt, video.codec_context.time_base = "yuv420p", FRAME
        video.options = {"crf": "8", "bf": "0"} if picture_codec == "libx264" else {"b": "4000000"}
        sounds = [container.add_stream(each.codec, each.rate) for each in tracks]
        for sound, track in zip(sounds, tracks, strict=True):
            sound.layout = track.layout
            if track.codec.startswith("wma"):
                sound.codec_context.bit_rate = 128000
            sound.options = {"strict": "-2"}
        for index in range(frames):
            picture = VideoFrame.from_ndarray(drawn(index), "rgb24").reformat(
                format="yuv420p", dst_colorspace=5
            )
            picture.pts, picture.time_base = index, FRAME
            packets += video.encode(picture)
        packets += video.encode()
        for number, (sound, track) in enumerate(zip(sounds, tracks, strict=True), 1):
            steps = np.arange(frames * track.rate // 25) * 0.05 * number
            channels = len(av.AudioLayout(track.layout).channels)
            tones = [(8000 * np.sin(steps * each)).astype(np.int16) for each in range(1, channels + 1)]
            whole = av.AudioFrame.from_ndarray(
                np.stack(tones, axis=1).reshape(1, -1), format="s16", layout=track.layout
            )
            whole.sample_rate, whole.pts = track.rate, 0
            size = sound.codec_context.frame_size or 1024
            resampler = av.AudioResampler(sound.format, track.layout, track.rate, size)
            for piece in resampler.resample(whole) + resampler.resample(None):
                piece.pts = (piece.pts or 0) + round(track.late * track.rate)
                piece.time_base = Fraction(1, track.rate)
                packets += sound.encode(piece)
            packets += sound.encode()
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    return path


def spoilt(path: Path, *, packets: tuple[int, ...], **settings: Any) -> Path:
    """An MP4 or MOV clip with noise instead of some packets of its picture."""
    data = bytearray(make(path, **settings).read_bytes())
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    for number in packets:
        position, size = places[number]
        data[position : position + size] = np.random.default_rng(number).bytes(size)
    path.write_bytes(data)
    return path


def joined(path: Path, **settings: Any) -> Path:
    """A clip whose bytes are there twice, so that its times are, too."""
    path.write_bytes(2 * make(path, **settings).read_bytes())
    return path


def mirrored(path: Path, **settings: Any) -> Path:
    """An MP4 clip whose display matrix swaps left and right."""
    data = bytearray(make(path, **settings).read_bytes())
    one = data.index(b"\0\1\0\0" + bytes(12) + b"\0\1\0\0", data.index(b"tkhd"))
    data[one : one + 4] = b"\xff\xff\0\0"
    path.write_bytes(data)
    return path


def leaping(path: Path, *, ticks: int, **settings: Any) -> Path:
    """A Matroska clip in which one packet says another time than its own."""
    data = bytearray(make(path, **settings).read_bytes())
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][7]
    time = data.index(bytes(packet)) - 3  # before the packet: its time in two bytes, then flags
    assert int.from_bytes(data[time : time + 2]) == 280
    data[time : time + 2] = (280 + ticks).to_bytes(2, signed=True)
    path.write_bytes(data)
    return path


def burst(path: Path, *, at: float, size: int, **settings: Any) -> Path:
    """A clip with noise from a share of its bytes on."""
    data = bytearray(make(path, **settings).read_bytes())
    position = int(at * len(data))
    data[position : position + size] = np.random.default_rng(0).bytes(size)
    path.write_bytes(data)
    return path


def cut(path: Path, *, share: float, **settings: Any) -> Path:
    """A clip that breaks off after a share of its bytes."""
    data = make(path, **settings).read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    return path


def replaced(path: Path, *, old: bytes, new: bytes, **settings: Any) -> Path:
    """A clip with other bytes in one place."""
    data = make(path, **settings).read_bytes()
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, new))
    return path


def picture(path: Path, *, suffix: str, channels: int = 3, exif: int = 0) -> Path:
    """A single picture, whatever the file is called."""
    image = drawn(0)
    if channels == 4:
        image = np.dstack([image, np.full(image.shape[:2], 128, np.uint8)])
    settings = [cv2.IMWRITE_JPEG_QUALITY, 100] if suffix == ".jpg" else []
    encoded = cv2.imencode(suffix, image[..., [2, 1, 0, 3][:channels]], settings)[1]
    data = encoded.tobytes()
    if exif:  # a segment of its own, after the two bytes that begin a JPEG
        tag = b"MM\0*" + bytes([0, 0, 0, 8, 0, 1, 1, 0x12, 0, 3, 0, 0, 0, 1, 0, exif, 0, 0, 0, 0, 0, 0])
        data = data[:2] + b"\xff\xe1" + (len(tag) + 8).to_bytes(2) + b"Exif\0\0" + tag + data[2:]
    path.write_bytes(data)
    return path


def animated(path: Path, *, frames: int = 12, alpha: int = 255, loop: int = 0, **settings: Any) -> Path:
    """An animation by Pillow, whose pictures are shown for 40 and 80 ms in turn."""
    pictures = [
        Image.fromarray(np.dstack([drawn(index), np.full((48, 64), alpha, np.uint8)])).convert(
            "RGB" if alpha == 255 else "RGBA"
        )
        for index in range(frames)
    ]
    settings = {"quality": 95, **settings}
    durations = [40, 80] * (frames // 2)
    pictures[0].save(
        path, save_all=True, append_images=pictures[1:], duration=durations, loop=loop, **settings
    )
    return path


def tiled(path: Path, *, codec: str, side: int = 128, cut: int = 8) -> Path:
    """A photo as phones make it, an AVIF or HEIF of 2x2 tiles, with a strip of them cut off."""
    kind, config, brand = {
        "libx265": (b"hvc1", b"hvcC", b"heic"),
        "libsvtav1": (b"av01", b"av1C", b"avif"),
    }[codec]
    options = {
        "crf": "8",
        **({"x265-params": "log-level=none:keyint=1"} if codec == "libx265" else {"preset": "12"}),
    }
    whole = drawn(0, 2 * side, 2 * side)
    tiles = []
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        part = path.with_suffix(".mp4")
        image = whole[row * side :][:side, column * side :][:, :side]
        with ordinary_priority(), av.open(str(part), "w") as container:
            video = container.add_stream(codec, 25, width=side, height=side)
            video.pix_fmt, video.options = "yuv420p", options
            video.codec_context.time_base, video.codec_context.color_range = FRAME, FULL
            picture = VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb24").reformat(
                format="yuv420p", dst_colorspace=5, dst_color_range=FULL
            )
            picture.pts, picture.time_base = 0, FRAME
            container.mux(video.encode(picture))
            container.mux(video.encode())
        with av.open(str(part)) as container:
            tiles.append(b"".join(bytes(packet) for packet in container.demux(video=0)))
    data = part.read_bytes()
    part.unlink()
    at = data.index(config) - 4
    described = data[at : at + int.from_bytes(data[at : at + 4])]

    def box(name: bytes, *parts: bytes) -> bytes:
        content = b"".join(parts)
        return (len(content) + 8).to_bytes(4) + name + content

    def full(name: bytes, *parts: bytes, version: int = 0, flags: int = 0) -> bytes:
        return box(name, bytes([version]), flags.to_bytes(3), *parts)

    def short(*numbers: int) -> bytes:
        return b"".join(number.to_bytes(2) for number in numbers)

    def long(*numbers: int) -> bytes:
        return b"".join(number.to_bytes(4) for number in numbers)

    size, items = 2 * side - cut, range(2, 6)  # item 1 is the whole
    properties = box(
        b"ipco",
        full(b"ispe", long(size, size)),
        full(b"ispe", long(side, side)),
        described,
        full(b"pixi", bytes([3, 8, 8, 8])),
        box(b"colr", b"nclx", short(1, 13, 5), b"\x80"),
    )
    belong = [
        short(1),
        bytes([3, 0x81, 4, 5]),
        *(short(each) + bytes([4, 0x82, 0x83, 4, 5]) for each in items),
    ]
    names = [full(b"infe", short(1, 0), b"grid\0", version=2)]
    names += [full(b"infe", short(each, 0), kind, b"\0", version=2, flags=1) for each in items]

    def meta(start: int) -> bytes:
        places = [start + sum(map(len, tiles[:index])) for index in range(4)]
        where = [
            short(each, 0, 0, 1) + long(place, len(tile))
            for each, place, tile in zip(items, places, tiles, strict=True)
        ]
        return full(
            b"meta",
            full(b"hdlr", long(0), b"pict", bytes(13)),
            full(b"pitm", short(1)),
            full(b"iloc", b"\x44\0", short(5, 1, 1, 0, 1), long(0, 8), *where, version=1),
            full(b"iinf", short(5), *names),
            full(b"iref", box(b"dimg", short(1, 4, *items))),
            box(b"iprp", properties, full(b"ipma", long(5), *belong)),
            box(b"idat", bytes([0, 0, 1, 1]), short(size, size)),
        )

    head = box(b"ftyp", brand, long(0), b"mif1", brand, b"miaf")
    path.write_bytes(head + meta(len(head + meta(0)) + 8) + box(b"mdat", *tiles))
    return path


def large(path: Path) -> Path:
    """A clip of 7680x4320 pixels."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("mjpeg", 25, width=7680, height=4320)
        video.pix_fmt = "yuvj420p"
        for index in range(2):
            image = drawn(index * 3).repeat(90, axis=0).repeat(120, axis=1)
            frame = VideoFrame.from_ndarray(image, "rgb24").reformat(format="yuvj420p", dst_color_range=FULL)
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(video.encode(frame))
        container.mux(video.encode())
    return path


class Animal(NamedTuple):
    """A clip of the zoo, and what is to be expected of it."""

    make: Callable[[Path], Path]
    frames: int = 12  # 0: some
    says: str = ""  # a part of the warning
    out: str = ".mp4"  # the suffix of the result
    turn: int = 0  # degrees, counterclockwise
    loss: float = 0.0  # mean difference, in levels, that writing it without compression makes
    spoilt: Container[int] = ()  # frames that need not be as they were drawn
    opencv: int | None = 3  # levels by which OpenCV's pictures may differ; None: it sees another clip
    lost: str = ""  # a part of the warning of an H.264 file


def made(
    maker: Callable[..., Path] = make,
    *,
    says: str = "",
    out: str = ".mp4",
    loss: float = 0.0,
    spoilt: Container[int] = (),
    opencv: int | None = 3,
    survivors: int | None = None,
    lost: str = "",
    **settings: Any,
) -> Animal:
    """An animal that ``maker`` makes, with these settings."""
    frames = len(settings["pts"]) if "pts" in settings else settings.get("frames", 12)
    frames = frames if survivors is None else survivors
    turn = settings.get("turn", 0)
    return Animal(partial(maker, **settings), frames, says, out, turn, loss, spoilt, opencv, lost)


MS = Fraction(1, 1000)
TS = Fraction(1, 90_000)
FRAME = Fraction(1, 25)
VFR = np.cumsum(np.random.default_rng(0).integers(200, 2500, 30)).tolist()
NTSC: dict[str, Any] = {"rate": Fraction(30000, 1001), "time_base": Fraction(1, 30000)}
HEVC: dict[str, Any] = {"codec": "libx265", "options": {"crf": "8", "x265-params": "log-level=none:keyint=5"}}
PRORES: dict[str, Any] = {
    "codec": "prores_ks",
    "pix_fmt": "yuv422p10le",
    "loss": 1.0,
    "lost": "but .* has 1[02]",
}
MPEG2: dict[str, Any] = {"codec": "mpeg2video", "options": {"b": "4000000", "g": "5"}, "time_base": FRAME}
MPEG4: dict[str, Any] = {"codec": "mpeg4", "options": {"b": "4000000"}, "time_base": FRAME}
DEEP: dict[str, Any] = {"pix_fmt": "yuv420p10le", "loss": 0.6, "opencv": None}
HDR: dict[str, Any] = DEEP | {"matrix": 9, "loss": 1.0, "says": "HDR", "lost": "SDR", "spoilt": range(12)}
B_FRAMES: dict[str, Any] = {"frames": 20, "options": {"crf": "8", "bf": "2", "b-adapt": "0", "g": "10"}}
SPOILT: dict[str, Any] = {"maker": spoilt, "frames": 20, "opencv": None}
CLEAR: dict[str, Any] = {"pix_fmt": "yuva420p", "time_base": MS, "lost": "transparent", "opencv": None}
GOPS = {"crf": "8", "bf": "0", "g": "5"}

ZOO: dict[str, Animal] = {
    # time
    "plain.mp4": made(sound="aac"),
    "b-frames.mp4": made(**B_FRAMES),
    "open-gop.mp4": made(frames=20, options={"crf": "8", "g": "10", "x264-params": "open-gop=1"}),
    "ntsc.mp4": made(**NTSC),
    "variable.mp4": made(pts=VFR),
    "variable.mkv": made(pts=[pts // 12 for pts in VFR], time_base=MS),
    # as phones record them: of these, a picture a frame is harder to pair
    "uneven and turned.mp4": made(pts=VFR, turn=90),
    "uneven, wide pixels.mkv": made(pts=[pts // 12 for pts in VFR], time_base=MS, sar=Fraction(4, 3)),
    "uneven and late.mp4": made(pts=[6400 + pts for pts in VFR]),
    "uneven b-frames.mp4": made(pts=VFR, **B_FRAMES),
    "a frame left out.mp4": made(pts=[1001 * index for index in range(13) if index != 6], **NTSC),
    "slow motion.mp4": made(rate=Fraction(240), time_base=Fraction(1, 24000)),
    "one.mp4": made(frames=1),
    "late picture.mp4": made(pts=[6400 + 512 * index for index in range(12)], sound="aac"),
    "late and silent.mp4": made(pts=[6400 + 512 * index for index in range(12)]),
    "an hour late.mkv": made(pts=[3_600_000 + 40 * index for index in range(12)], time_base=MS),
    "ten hours late.ts": made(pts=[3_240_000_000 + 3600 * index for index in range(12)], time_base=TS),
    "stream.ts": made(frames=20, time_base=TS, sound="aac"),
    "joined.ts": made(joined, time_base=TS, sound="aac", survivors=24, spoilt=range(12, 24), opencv=None),
    "fragments.mp4": made(movflags="frag_keyframe+empty_moov", sound="aac"),
    "no clock.h264": made(time_base=FRAME, opencv=None),
    # size and shape
    "odd.mp4": made(width=63, height=47, pix_fmt="yuv444p", lost="odd size"),
    "odd and halved.webm": made(
        width=63, height=47, codec="libvpx-vp9", time_base=MS, opencv=50, lost="odd size"
    ),
    "wide pixels.mp4": made(sar=Fraction(4, 3)),
    "turned left.mp4": made(turn=90),
    "turned right.mp4": made(turn=-90),
    "on its head.mp4": made(turn=180),
    "mirrored.mp4": made(mirrored, spoilt=range(12), opencv=None),
    "turned, wide pixels.mp4": made(turn=90, sar=Fraction(4, 3)),
    "one pixel.mp4": made(width=1, height=1, pix_fmt="yuv444p", spoilt=range(12), lost="odd size"),
    # colours
    "bt601.mp4": made(color=Color(BT601, 6, 6, LIMITED)),
    "bt601 full.mp4": made(color=Color(BT601, 6, 6, FULL), loss=0.7),
    "bt709.mp4": made(color=Color(BT709, 1, 1, LIMITED)),
    "bt709 full.mp4": made(color=Color(BT709, 1, 1, FULL), loss=0.7),
    "untagged hd.mp4": made(frames=3, height=720, matrix=BT709, opencv=30),
    "422.mov": made(pix_fmt="yuv422p", loss=1.0),
    "10 bits.mp4": made(**DEEP, lost="8 bits per colour, but .* has 10"),
    "pq.mp4": made(**HDR, color=Color(9, 9, 16, LIMITED)),
    "hlg.mp4": made(**HDR, color=Color(9, 9, 18, LIMITED)),
    "prores.mov": made(**PRORES),
    "12 bits.mkv": made(
        codec="ffv1", pix_fmt="yuv420p12le", time_base=MS, loss=0.6, opencv=None, lost="but .* has 12"
    ),
    "16 bits.mkv": made(
        codec="ffv1", pix_fmt="gbrp16le", time_base=MS, loss=1.5, opencv=None, lost="but .* has 16"
    ),
    "apng.apng": made(codec="apng", pix_fmt="rgb24", time_base=Fraction(1, 100), loss=1.5, opencv=None),
    "grey.mkv": made(codec="ffv1", pix_fmt="gray", time_base=MS, loss=0.2, spoilt=range(12)),
    "rgb.mov": made(codec="png", pix_fmt="rgb24", loss=1.5),
    "alpha.mov": made(codec="png", pix_fmt="rgba", loss=1.5, lost="transparent"),
    "alpha.webm": made(codec="libvpx-vp9", **CLEAR),
    "alpha, vp8.webm": made(codec="libvpx", **CLEAR | {"options": {"b": "4000000", "auto-alt-ref": "0"}}),
    "interlaced.mp4": made(options={"crf": "8", "flags": "+ildct+ilme"}, says="interlaced", opencv=None),
    # codecs and containers
    "hevc.mp4": made(**HEVC),
    "mpeg2.mpg": made(**MPEG2, opencv=None),
    "mpeg4.avi": made(**MPEG4, sound="libmp3lame"),
    "mpeg4 b-frames.avi": made(**(MPEG4 | {"options": {"b": "4000000", "bf": "2"}}), opencv=None),
    "jpegs.avi": made(codec="mjpeg", pix_fmt="yuvj420p", time_base=FRAME, options={"b": "4000000"}, loss=0.7),
    "vp8.webm": made(codec="libvpx", time_base=MS, options={"b": "4000000"}),
    "av1.mkv": made(codec="libsvtav1", time_base=MS, options={"preset": "12", "crf": "8"}, opencv=None),
    "animated.gif": made(codec="gif", pix_fmt="rgb8", time_base=Fraction(1, 100), loss=20, spoilt=range(12)),
    "animated.webp": Animal(animated, loss=1.5, opencv=None),
    "animated.avif": Animal(animated, loss=1.5, opencv=None),
    "animated, with alpha.avif": Animal(
        partial(animated, alpha=128), loss=1.5, opencv=None, lost="transparent"
    ),
    "tiles.avif": Animal(partial(tiled, codec="libsvtav1"), frames=1, loss=1.5, opencv=None),
    "photo.jpg": Animal(partial(picture, suffix=".jpg"), frames=1, loss=0.7),
    "photo, turned.jpg": Animal(partial(picture, suffix=".jpg", exif=6), 1, turn=-90, loss=0.7, opencv=None),
    "picture.png": Animal(partial(picture, suffix=".png"), frames=1, loss=1.5),
    "picture called.mp4": Animal(partial(picture, suffix=".png"), frames=1, loss=1.5),
    "cut-out.png": Animal(partial(picture, suffix=".png", channels=4), 1, loss=1.5, lost="transparent"),
    # sound
    "two sounds.mkv": made(sound="aac libmp3lame", time_base=MS),
    "long sound.mp4": made(sound="aac", sound_seconds=2),
    "short sound.mp4": made(sound="aac", sound_seconds=0.2),
    "pcm.mov": made(sound="pcm_s16le", out=".mkv"),
    "opus.mkv": made(sound="libopus", time_base=MS),
    "pcm without a layout.avi": Animal(
        partial(sounding, tracks=(Track("pcm_s16le"),)), 25, out=".mp4", opencv=None
    ),
    "sound around.mkv": Animal(
        partial(sounding, tracks=(Track("aac", layout="7.1"),)), 25, out=".mkv", opencv=None
    ),
    "late sounds.mkv": Animal(
        partial(sounding, tracks=(Track("aac"), Track("ac3", layout="5.1", late=0.4))), 25, opencv=None
    ),
    # counts and durations that are wrong
    "too long.mkv": made(
        replaced,
        old=b"00:00:00.480000000",
        new=b"01:00:00.480000000",
        time_base=MS,
        says=r"ends at 0\.48 s instead of 3600\.48 s",
    ),
    "too many.mp4": made(
        replaced, old=b"stts" + bytes(7) + b"\1\0\0\0\x0c", new=b"stts" + bytes(7) + b"\1\0\0\4\0"
    ),
    "a packet far ahead.mkv": made(leaping, ticks=9000, options=GOPS, time_base=MS, opencv=None),
    "a packet far behind.mkv": made(leaping, ticks=-9000, options=GOPS, time_base=MS, opencv=None),
    # damage
    "spoilt.mp4": made(
        **SPOILT, packets=(7,), options=GOPS, sound="aac", spoilt=range(7, 10), says=r"frame 7, at 0\.28 s"
    ),
    "spoilt keyframe.mp4": made(
        **SPOILT,
        packets=(10,),
        options=GOPS,
        spoilt=range(10, 15),
        says=r"neighbour: \d; .* frame 10, at 0\.40 s",
    ),
    "spoilt first.mp4": made(
        **SPOILT, packets=(0,), options=GOPS, spoilt=range(5), says=r"neighbour: \d; .* frame 0, at 0\.00 s"
    ),
    "spoilt end.mp4": made(
        **SPOILT,
        packets=(18, 19),
        options=GOPS,
        spoilt=(18, 19),
        says=r"neighbour: 2; .* frame 18, at 0\.72 s",
    ),
    "spoilt prores.mov": made(
        **SPOILT, **PRORES, packets=(3, 9), spoilt=(3, 9), says="neighbour: 2; .* frame 3"
    ),
    "burst.ts": made(
        burst,
        **MPEG2,
        frames=20,
        at=0.5,
        size=400,
        survivors=19,
        spoilt=range(5, 20),
        says="damaged",
        opencv=None,
    ),
    "burst.mkv": made(
        burst,
        frames=20,
        options=GOPS,
        time_base=MS,
        at=0.5,
        size=400,
        survivors=0,
        says="damaged",
        opencv=None,
    ),
    "cut short.mp4": made(
        cut,
        share=0.8,
        frames=20,
        options=GOPS,
        movflags="faststart",
        survivors=0,
        spoilt=range(10, 20),
        says=r"ends at 0\.\d\d s instead of 0\.80 s",
        opencv=None,
    ),
    "cut short.mkv": made(
        cut, share=0.8, frames=20, options=GOPS, time_base=MS, survivors=0, says="ends at", opencv=None
    ),
    "cut short.ts": made(cut, share=0.8, frames=20, options=GOPS, time_base=TS, survivors=0, opencv=None),
}
