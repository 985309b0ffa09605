"""What is looked after in Redis: what was lost, waits too long, or was left behind by the dead."""
