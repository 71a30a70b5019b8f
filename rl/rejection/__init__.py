"""Rejection sampling: replies of a policy that its check passes, as rows to learn from."""
