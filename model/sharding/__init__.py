"""One trainer core for packed rows, on one process or many: see model.sharding.core."""
