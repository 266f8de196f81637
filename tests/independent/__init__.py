"""A check of what a cluster promises, written from the documents alone: it knows nothing of how the nodes work."""
