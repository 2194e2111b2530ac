"""What the small data set of the tests is like."""

SIDE = 8
"""Of its square images."""
