"""The protocol: the digest of each sweep's runs, from ``JudgedStudy.digests``."""

from collections.abc import Mapping

PROTOCOL: Mapping[str, str] = {}
