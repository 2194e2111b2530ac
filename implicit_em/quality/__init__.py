"""What is measured of trained encoders beside the metrics of a run: arrays in, numbers out.

Rows are samples (N) or units (K); inputs have D features. What cannot be computed is NaN.
``quality`` gathers all of it for one encoder.
"""

from implicit_em.quality.encoded import Encoded, quality

__all__ = ["Encoded", "quality"]
