"""Generated from `protos/` by `protos/generate.py`; never edited. Only `wire` imports it."""
