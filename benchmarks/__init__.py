"""Benchmarks: uploader beside its rivals on the same files, against servers on loopback. Run `python -m benchmarks`.

Nothing here is a test; nothing in the product or its tests imports it.
"""
