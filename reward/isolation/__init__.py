"""What runs inside the sandbox process. Standard library only; imports nothing of the project."""
