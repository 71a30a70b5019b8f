"""Thinking budgets: trained by truncation, enforced by one rule, measured by curves."""
