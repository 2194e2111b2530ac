"""The derived model against other sparse models, at matched density."""
