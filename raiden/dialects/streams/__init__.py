"""Durable Streams: streams that clients make, append to and read by HTTP, from any place on, while they grow."""
