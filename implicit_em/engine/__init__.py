"""The training step: stacks of replicas, where they meet, and the LightningModules around them.

It imports from ``data``, ``distributed``, ``losses``, ``metrics``, ``models`` and ``base``.
"""
