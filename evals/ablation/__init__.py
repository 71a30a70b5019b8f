"""Ablations: arms that differ in their data, by several seeds, in one table with honest intervals."""
