"""What is measured of encoders that are compared: pure functions, arrays in, numbers out.

Rows are samples (N) or units (K); inputs have D features. What cannot be computed is NaN.
``quality`` gathers all of it for one encoder.
"""
