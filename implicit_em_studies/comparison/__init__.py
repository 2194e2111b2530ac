"""The derived model against the sparse autoencoders of others, at matched density.

It imports from ``studies`` and the layers below, not from ``experiments``.
"""
