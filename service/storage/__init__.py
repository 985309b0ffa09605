"""What of the service lies in Redis, and the ways to it."""
