"""Data that models write, gated by the checkers that reward uses."""
