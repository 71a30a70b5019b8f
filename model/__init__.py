"""What a model is: shapes, layers, tokenizer, checkpoint files, loss and cost."""
