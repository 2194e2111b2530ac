"""The composed configuration: its schema, check, fingerprint and what was mistyped.

With what lies above it, it alone knows Hydra; it imports from ``engine`` and below. The resolvers
that configurations use are registered when it is imported.
"""

from implicit_em.config import resolvers

__all__ = ["resolvers"]
