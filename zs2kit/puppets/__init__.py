"""Puppets: a drawn world of articulated figures, whose every pixel is known, and the small models trained on it."""
