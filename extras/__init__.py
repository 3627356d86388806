"""Packages that only some users need. Scripts import them, nanochat/ never does.

`clean` filters and deduplicates text, `export` writes models for other programs, `nanogpt` trains as nanoGPT does, and
`harness` runs lm-evaluation-harness on the Engine.
"""
