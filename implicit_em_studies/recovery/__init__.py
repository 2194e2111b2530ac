"""Every family on data whose features are known: which of them each one finds.

It imports from ``studies`` and the layers below, not from other studies.
"""
