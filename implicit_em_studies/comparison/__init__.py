"""The derived model against the sparse autoencoders of others, at matched density."""
