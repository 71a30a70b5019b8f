"""Environments that others serve: tools of MCP servers, resource servers of NeMo Gym, verifiers."""
