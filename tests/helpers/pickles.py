"""A pickle that does harm."""

from pathlib import Path


class Harmful:
    """Makes a file when it is unpickled, as it might do anything."""

    def __init__(self, path):
        self.path = Path(path).absolute()

    def __reduce__(self):
        return Path.touch, (self.path,)
