"""Answers kept for drafters to learn from, where the operator asked for it."""
