"""The studies that stand on the framework: paper, comparison, recovery, language, theory.

Each is a package with a command of its own, and ``shared`` is what they have in common. A study
imports ``implicit_em``, never the reverse.
"""

from pathlib import Path

CONF = Path(__file__).parent / "conf"
"""Folder of the configuration files."""
