"""Harvests: a language model reads text, and vectors from inside it are written to a store.

Only this layer knows transformers, and imports it late.
"""
