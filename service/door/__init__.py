"""What lets requests in, and what of them: keys, tenants, limits, names, and how much may wait."""
