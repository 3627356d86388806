"""Rooms that only some need, used by scripts alone: nothing in nanochat/ imports them.

`clean` filters and deduplicates text, `export` writes models for other programs, `nanogpt` trains as nanoGPT does, and
`harness` runs lm-evaluation-harness on the Engine.
"""
