"""The engine in a process of its own, and what the worker and it tell each other."""
