"""Recorded acceptance against a modelled clock, through the real engine: GPU-like loads on a CPU."""
