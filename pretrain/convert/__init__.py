"""Models of other formats as plain Hugging Face checkpoints."""
