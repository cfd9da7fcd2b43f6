"""People in real footage: where they are, how they stand, and which pixels are theirs. No download is needed.

`find_people` looks at every picture alone. `Tracker` follows people through the frames of a shot: that is
quicker, and says who is who, with points that go smoothly.
"""

from .pose import Person, find_people, shows_people, silhouette
from .skeleton import draw_skeletons, to_openpose
from .tracking import Tracker, tell_small

__all__ = [
    "Person",
    "Tracker",
    "draw_skeletons",
    "find_people",
    "shows_people",
    "silhouette",
    "tell_small",
    "to_openpose",
]
