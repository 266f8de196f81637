"""Action Cable, the protocol of Rails, and AnyCable's extension of it, on Raiden's channels."""
