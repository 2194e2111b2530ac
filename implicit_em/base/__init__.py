"""What every layer may use: errors, files, signals, silence and tables as text.

It imports nothing else of the package.
"""
