"""What the small data set of the tests is like, and how such data are written."""

import struct

import numpy as np

SIDE = 8
"""Of its square images."""


def write_idx(path, values):
    """Write bytes in MNIST's format: magic number, one big-endian size a dimension, values."""
    values = np.asarray(values)
    header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    path.write_bytes(header + values.astype(np.uint8).tobytes())
