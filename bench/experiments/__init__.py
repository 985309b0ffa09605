"""Experiments tried where the truth is known: replayed on a modelled clock, or on recorded requests."""
