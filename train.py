"""Train one run or, with -m, a sweep: python train.py [-m] [key=value ...]."""

import sys

from implicit_em.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
