"""The networks that denoise: the protocol that they share, the families, and the loading of checkpoints."""
