"""Language models: harvested vectors, what trains on them, and what is measured inside a model.

A wing on top of the framework: no module outside of it imports it. The framework reaches it through
its commands, its settings, and what its data module answers. Only this wing knows transformers, and
imports it late.
"""
