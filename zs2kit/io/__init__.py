"""Reading and writing of clips: the only part of zs2kit that knows PyAV and OpenCV's VideoCapture.

PyAV's packets are the clock: timestamps, counts, rotation, colour tags, sound. Its pictures are the frames,
and OpenCV steps in where it finds none. Only a few frames are in memory at a time, in either direction.
"""

from __future__ import annotations

from zs2kit.io.reading import read as read
from zs2kit.io.writing import CODECS as CODECS
from zs2kit.io.writing import FORMATS as FORMATS
from zs2kit.io.writing import SEGMENT as SEGMENT
from zs2kit.io.writing import check_output as check_output
from zs2kit.io.writing import copied as copied
from zs2kit.io.writing import default_codec as default_codec
from zs2kit.io.writing import left as left
from zs2kit.io.writing import name_beside as name_beside
from zs2kit.io.writing import say_what_is_lost as say_what_is_lost
from zs2kit.io.writing import write as write
