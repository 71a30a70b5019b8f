"""On-policy distillation: a student's own replies, taught token by token by another model."""
