"""Evaluation with the real engine: questions, answers, what drafts were worth, tables and figures."""
