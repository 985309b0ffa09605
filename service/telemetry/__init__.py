"""What is counted, traced and written down of requests, gateways and workers."""
