"""Multi-turn tool environments, verified by the state they end in."""
