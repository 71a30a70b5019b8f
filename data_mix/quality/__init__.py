"""Quality scores of texts: a small classifier trained on a model's ratings, or one of Hugging Face's."""
