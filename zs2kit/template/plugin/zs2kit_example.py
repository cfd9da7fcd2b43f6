"""A plugin for zs2kit: keeps a border of the source as it is."""

from dataclasses import dataclass

import numpy as np

from zs2kit import Plugin, hookimpl, option


@dataclass(eq=False)
class Example(Plugin):
    """Keeps a border of the source as it is, so that only the picture inside it is redrawn."""

    width: float = option(0.1, "Width of the border, as a share of the shorter side.", minimum=0, maximum=0.5)

    @hookimpl
    def keep(self, chunk):
        height, width = chunk.fit.source
        border = round(self.width * min(height, width))
        mask = np.ones((chunk.length, height, width), np.float32)  # 1 stays
        mask[:, border : height - border, border : width - border] = 0
        return mask
