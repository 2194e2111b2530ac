"""What was trained: models of runs and of other tools, read, measured again and exported."""
