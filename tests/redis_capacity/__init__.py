"""What one Redis carries: workers without an engine and a gateway without HTTP, and Redis's own share of a core."""
