"""Seeded, unlimited task generators: math, code and chat."""
