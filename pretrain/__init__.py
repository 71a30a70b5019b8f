"""Build and pretrain the hybrid base model."""
