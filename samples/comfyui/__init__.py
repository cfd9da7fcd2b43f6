"""Nodes of zs2kit for ComfyUI: put this folder into ``custom_nodes``; docs/comfyui.md says more."""

from .nodes import comfy_entrypoint

__all__ = ["comfy_entrypoint"]
