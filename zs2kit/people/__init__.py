"""People in real footage: where they are, how they stand, and which pixels are theirs. No download is needed.

`find_people` and `silhouette` look at every frame alone, so it doesn't matter how a clip is cut into chunks.
`Tracker` links frames: it says who is who, and steadies their points. Its state is plain data.
"""

from .pose import Person, find_people, shows_people, silhouette
from .skeleton import draw_skeletons, to_openpose
from .tracking import Tracker

__all__ = ["Person", "Tracker", "draw_skeletons", "find_people", "shows_people", "silhouette", "to_openpose"]
