"""The study of language models: families of sparse dictionaries on their activations."""
