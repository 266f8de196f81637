"""Doors for clients that speak another server's protocol. Each takes its paths only where a setting opens it."""
