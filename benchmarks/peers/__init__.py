"""This project beside other tools: TopK autoencoders on the same activations.

Each tool trains in an environment of its own, by a script of this folder.
"""
