"""A filter for zs2kit: leaves a trail behind what moves."""

from dataclasses import dataclass

import torch

from zs2kit import Filter, option


@dataclass(eq=False)
class Example(Filter):
    """Leaves a trail behind what moves, which fades from frame to frame."""

    length: float = option(0.5, "How much of the trail is left a frame later.", minimum=0, maximum=1)

    def run(self, passage, carry):
        made = []
        trail = carry.get("trail", passage.pixels[0])  # nothing is carried at the start of a shot
        for picture in passage.pixels:  # (3, height, width), from 0 to 1
            trail = torch.lerp(picture, trail, self.length)
            made.append(trail)
        carry["trail"] = trail
        return torch.stack(made)
