"""What every layer may use: errors, files and their digests, signals, warnings, tables as text."""
