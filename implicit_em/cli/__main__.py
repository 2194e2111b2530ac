"""``python -m implicit_em.cli``: the same as ``implicit-em``."""

import sys

from implicit_em.cli import main

if __name__ == "__main__":
    sys.exit(main())
