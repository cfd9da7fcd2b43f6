"""Single pictures: what their first bytes say, and their pixels."""

from __future__ import annotations

import struct
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import av
import numpy as np
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation
from numpy.typing import NDArray

from zs2kit.clip import Color
from zs2kit.encoding import Encoding
from zs2kit.errors import ClipError, notify

# The decoder of each kind of picture, by the ending of the file's name
DECODERS = {
    ".png": "png",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".dpx": "dpx",
    ".exr": "exr",
    ".jpg": "mjpeg",
    ".jpeg": "mjpeg",
}
# By default, swscale takes shortcuts with halved colours, and its pictures are about half a level too dark.
# With these flags, it rounds to the nearest level.
_EXACT = Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
SWSCALE_WHITE = 65280  # what swscale's conversions between YUV and RGB of 16 bits take for white

# What reading the first bytes raises if something is wrong with them
_MALFORMED = (ValueError, struct.error, IndexError, KeyError, OverflowError)
_NAMES = {"png": "a PNG", "tiff": "a TIFF", "dpx": "a DPX", "exr": "an EXR", "mjpeg": "a JPEG"}


class Head(NamedTuple):
    """What a picture's first bytes say; all pictures of a sequence must agree."""

    width: int
    height: int
    kind: str  # depth and channels, in words


# Kinds of pictures that are refused, and what to do about them
_REFUSED = {
    "log-encoded": "convert it to OpenEXR, which is linear, or to what a display shows",
    "CMYK": "convert it to RGB",
}


def head(path: Path) -> Head:
    """Read a picture's first bytes. Raises `ClipError` if it isn't what its name says."""
    kind = DECODERS[path.suffix.lower()]
    try:
        with path.open("rb") as file:
            found = {"png": _png, "tiff": _tiff, "dpx": _dpx, "exr": _exr, "mjpeg": _jpeg}[kind](file)
    except OSError as error:
        raise ClipError(
            f"{path} can't be read ({error.strerror})", "check its name and permissions"
        ) from error
    except _MALFORMED as error:
        raise ClipError(f"{path} is not {_NAMES[kind]} picture, or is damaged", "make it again") from error
    _refuse(path, found.kind)
    return found


def check_kind(path: Path) -> None:
    """Raise `ClipError` if a file, whatever its name, is a picture of a kind that is refused."""
    for read in (_tiff, _dpx, _jpeg):
        with suppress(OSError, *_MALFORMED), path.open("rb") as file:
            _refuse(path, read(file).kind)


def _refuse(path: Path, kind: str) -> None:
    if kind in _REFUSED:
        raise ClipError(f"{path} is {kind}", _REFUSED[kind])


def _png(file: BinaryIO) -> Head:
    data = file.read(26)
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        raise ValueError
    width, height, bits, colour = struct.unpack(">IIBB", data[16:26])
    return Head(
        width, height, f"{bits} bits, {['grey', '', 'RGB', 'palette', 'grey with alpha', '', 'RGBA'][colour]}"
    )


def _tiff(file: BinaryIO) -> Head:
    order = {b"II*\0": "<", b"MM\0*": ">"}[file.read(4)]
    file.seek(struct.unpack(f"{order}I", file.read(4))[0])
    (count,) = struct.unpack(f"{order}H", file.read(2))
    entries = {tag: rest for tag, *rest in struct.iter_unpack(f"{order}HHI4s", file.read(12 * count))}

    def of(tag: int, default: int = 0) -> tuple[int, ...]:
        if tag not in entries:
            return (default,)
        kind, number, value = entries[tag]
        form = f"{order}{number}{ {1: 'B', 3: 'H', 4: 'I', 16: 'Q'}[kind] }"
        if struct.calcsize(form) > 4:
            file.seek(struct.unpack(f"{order}I", value)[0])
            value = file.read(struct.calcsize(form))
        return tuple(struct.unpack_from(form, value))

    ends = [start + size for start, size in zip(of(273), of(279), strict=True)]  # of the strips
    if max(ends) > file.seek(0, 2):
        raise ValueError
    depth = f"{of(258, 1)[0]} bits, {of(277, 1)[0]} channels"
    return Head(of(256)[0], of(257)[0], "CMYK" if of(262)[0] == 5 else depth)


def _dpx(file: BinaryIO) -> Head:
    data = file.read(808)
    order = {b"SDPX": ">", b"XPDS": "<"}[data[:4]]
    width, height = struct.unpack(f"{order}II", data[772:780])
    depth = f"{data[803]} bits, {'RGBA' if data[800] == 51 else 'RGB'}"
    # The transfer characteristic: 1 is printing density, 3 is logarithmic.
    return Head(width, height, "log-encoded" if data[801] in (1, 3) else depth)


def _exr(file: BinaryIO) -> Head:
    attributes = exr_attributes(file)
    _check_chunks(file, attributes)
    left, top, right, bottom = struct.unpack("<4i", attributes["displayWindow"])
    channels = exr_channels(attributes)
    kinds = {"half" if kind == 1 else "float" if kind == 2 else "whole" for kind in channels.values()}
    return Head(right - left + 1, bottom - top + 1, f"{'/'.join(sorted(kinds))}, {','.join(channels)}")


def exr_attributes(file: BinaryIO) -> dict[str, bytes]:
    """Read the attributes of an OpenEXR file, which is open at its start."""
    if file.read(4) != b"v/1\x01":
        raise ValueError
    file.read(4)
    data, found, place = file.read(1 << 16), dict[str, bytes](), 0
    while data[place]:
        name, place = _text(data, place)
        _, place = _text(data, place)
        (size,) = struct.unpack_from("<i", data, place)
        found[name] = data[place + 4 : place + 4 + size]
        place += 4 + size
    file.seek(8 + place + 1)  # here the table starts that says where lines are
    return found


def _check_chunks(file: BinaryIO, attributes: dict[str, bytes]) -> None:
    """Raise `ValueError` if lines are missing, since FFmpeg would leave them black."""
    if "tiles" in attributes or "chunkCount" in attributes:
        return
    _, top, _, bottom = struct.unpack("<4i", attributes["dataWindow"])
    rows = {0: 1, 1: 1, 2: 1, 3: 16, 4: 32, 5: 16, 6: 32, 7: 32, 8: 32, 9: 256}[attributes["compression"][0]]
    count = -(-(bottom - top + 1) // rows)
    offsets = struct.unpack(f"<{count}Q", file.read(8 * count))
    file.seek(max(offsets) + 4)
    (size,) = struct.unpack("<i", file.read(4))
    if min(offsets) == 0 or max(offsets) + 8 + size > file.seek(0, 2):
        raise ValueError


def exr_channels(attributes: dict[str, bytes]) -> dict[str, int]:
    """Return the kinds of an OpenEXR file's channels, by name: 0 whole numbers, 1 half, 2 float."""
    data, place, found = attributes["channels"], 0, {}
    while data[place]:
        name, place = _text(data, place)
        found[name] = int(struct.unpack_from("<i", data, place)[0])
        place += 16
    return found


def _text(data: bytes, place: int) -> tuple[str, int]:
    end = data.index(b"\0", place)
    return data[place:end].decode("latin-1"), end + 1


def _jpeg(file: BinaryIO) -> Head:
    if file.read(2) != b"\xff\xd8":
        raise ValueError
    while True:
        while (byte := file.read(1)) == b"\xff":
            pass
        marker = byte[0]
        if marker == 0 or 0xD0 <= marker <= 0xD9:
            raise ValueError
        (size,) = struct.unpack(">H", file.read(2))
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            bits, height, width, channels = struct.unpack(">BHHB", file.read(6))
            return Head(width, height, "CMYK" if channels == 4 else f"{bits} bits, {channels} channels")
        file.seek(size - 2, 1)
        if file.read(1) != b"\xff":
            raise ValueError


def decode(path: Path) -> tuple[VideoFrame, Fraction]:
    """Return a picture, and the aspect ratio of its pixels. Raises `ClipError` if it is damaged."""
    head(path)
    decoder = av.CodecContext.create(DECODERS[path.suffix.lower()], "r")
    assert isinstance(decoder, VideoCodecContext)
    # Fail rather than return a picture of which a part is missing
    if decoder.name != "tiff":  # that decoder would then refuse tags it doesn't know
        decoder.options = {"err_detect": "crccheck+explode"}
    try:
        pictures = [*decoder.decode(Packet(path.read_bytes())), *decoder.decode(None)]
    except (av.FFmpegError, ValueError, OSError):
        pictures = []
    if not pictures or pictures[0].is_corrupt:
        raise ClipError(f"{path} is damaged, or of a kind that can't be decoded", "make it again")
    return pictures[0], decoder.sample_aspect_ratio or Fraction(1)


def tell_left(path: Path) -> None:
    """Send notices about what an OpenEXR file contains that is not read."""
    if path.suffix.lower() != ".exr":
        return
    with path.open("rb") as file:
        attributes = exr_attributes(file)
    others = sorted(set(exr_channels(attributes)) - {"R", "G", "B", "A", "Y"})
    if others:
        notify("channels-lost", f"{path} has more channels, which are left out: {', '.join(others)}")
    if attributes["dataWindow"] != attributes["displayWindow"]:
        notify(
            "window-lost",
            f"the data window of {path} differs from its display window; what lies outside is left out",
        )


def encoding_of(picture: VideoFrame) -> Encoding:
    """Return how the numbers of decoded pictures stand for light."""
    kind = picture.format
    alpha = any(part.is_alpha for part in kind.components)
    if "f16" in kind.name or "f32" in kind.name:
        return Encoding(16 if "f16" in kind.name else 32, floating=True, alpha=alpha, light="linear")
    bits = max(8, *(part.bits for part in kind.components))
    light: Any = {16: "pq", 18: "hlg"}.get(picture.color_trc)
    if light:
        return Encoding(max(bits, 10), alpha=alpha, light=light, primaries=picture.color_primaries)
    return Encoding(bits, alpha=alpha)


def rgb(picture: VideoFrame, encoding: Encoding, color: Color, size: tuple[int, int]) -> NDArray[Any]:
    """Decoded picture -> array (height, width, 3 or 4) in ``encoding``; ``size`` is (width, height)."""
    kind = picture.format.name
    as_it_is = (picture.width, picture.height) == size
    if encoding.floating:
        return np.ascontiguousarray(_planes(picture)[..., : encoding.channels], np.float32)
    if (
        as_it_is and encoding.bits > 8 and kind.startswith("gbr") and kind.endswith("le")
    ):  # exactly, unlike swscale
        scale = 65535 / ((1 << encoding.bits) - 1)
        return np.rint(_planes(picture)[..., : encoding.channels] * scale).astype(np.uint16)
    if as_it_is and encoding.bits > 8 and kind.startswith("gray16"):
        return picture.to_ndarray(format="gray16le")[..., None].repeat(3, axis=2)
    shallow = (
        encoding.bits > 8 and picture.format.is_rgb and max(c.bits for c in picture.format.components) <= 8
    )
    if shallow:
        plain = Encoding(alpha=encoding.alpha)
        return rgb(picture, plain, color, size).astype(np.uint16) * np.uint16(257)
    if not picture.format.is_rgb:
        picture = _unsited(picture)
        picture.colorspace = color.colorspace
    name = ("rgba" if encoding.alpha else "rgb24") if encoding.bits <= 8 else ""
    scaler = Interpolation.POINT if as_it_is else Interpolation.BICUBIC
    numbers: NDArray[Any] = picture.to_ndarray(
        format=name or ("rgba64le" if encoding.alpha else "rgb48le"),
        width=size[0],
        height=size[1],
        interpolation=scaler | _EXACT,
        threads=1,  # starting more for each picture takes longer than they save
    )
    if not name and not picture.format.is_rgb:
        numbers = np.rint(np.minimum(numbers / np.float32(SWSCALE_WHITE), 1) * 65535).astype(np.uint16)
    return numbers


def _unsited(picture: VideoFrame) -> VideoFrame:
    """Return the picture without its chroma location, since swscale would shift halved colours by it.

    Without it, each colour sample stands for its own 2x2 pixels, and `write` gets it back by averaging over
    them.
    """
    bare = VideoFrame(picture.width, picture.height, picture.format.name)
    planes: Any = zip(bare.planes, picture.planes, strict=True)  # of bytes, with padding at the ends of lines
    for plane in planes:
        target, source = (np.frombuffer(each, np.uint8).reshape(each.height, -1) for each in plane)
        width = min(target.shape[1], source.shape[1])
        target[:, :width] = source[:, :width]
    bare.color_range = picture.color_range
    return bare


def _planes(picture: VideoFrame) -> NDArray[Any]:
    """Return a picture's own numbers, (height, width, 3 or 4) RGB; grey is repeated for all three."""
    kind: VideoFormat = picture.format
    dtype = np.dtype(np.float16 if "f16" in kind.name else np.float32 if "f32" in kind.name else np.uint16)
    planes: Any = picture.planes
    if len(planes) == 1 and len(kind.components) > 1:  # packed, as in a TIFF
        whole = np.frombuffer(planes[0], dtype).reshape(picture.height, -1)
        return whole[:, : picture.width * len(kind.components)].reshape(picture.height, picture.width, -1)
    parts = [np.frombuffer(each, dtype).reshape(each.height, -1)[:, : each.width] for each in planes]
    green, blue, red, *alpha = parts if len(parts) >= 3 else parts[:1] * 3 + parts[1:]
    return np.stack([red, green, blue, *alpha], axis=-1)


class Upright(NamedTuple):
    """How a decoded picture is turned for display: rows and columns may be swapped, and then reversed."""

    swap: bool = False
    rows: int = 1  # -1: from bottom to top
    columns: int = 1  # -1: from right to left

    def apply(self, image: NDArray[Any]) -> NDArray[Any]:
        """Return the picture as it should be displayed."""
        if self.swap:
            image = image.swapaxes(0, 1)
        return np.ascontiguousarray(image[:: self.rows, :: self.columns])


_TURNS = {90: Upright(True, rows=-1), -90: Upright(True, columns=-1), 180: Upright(False, -1, -1)}


def upright_of(frame: VideoFrame) -> Upright:
    """Read the display matrix, [[a, b], [c, d]], which maps (column, row). Only its signs count."""
    try:
        matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # there is other side data that PyAV doesn't know, as in photos
        return _TURNS.get(frame.rotation, Upright())
    if matrix is None:
        return Upright()
    (a, b, _), (c, d, _), _ = np.frombuffer(bytes(matrix), np.int32).reshape(3, 3)
    swap = abs(int(b)) > abs(int(a))
    column, row = (c, b) if swap else (a, d)
    return Upright(swap, -1 if row < 0 else 1, -1 if column < 0 else 1)


def is_turned(frame: VideoFrame) -> bool:
    """Whether a tag tells players to turn or mirror the picture."""
    return upright_of(frame) != Upright()
