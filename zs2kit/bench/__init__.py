"""Benchmarks of zs2kit: `python -m zs2kit.bench`."""
