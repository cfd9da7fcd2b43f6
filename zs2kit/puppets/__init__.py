"""Puppets: a drawn world of articulated figures, all of it known to the pixel, and models trained on it."""
