"""Raiden's settings for the cursor board: raiden -C raiden.conf.py, with the variables of the README."""

import os

# The page comes from the application, which is another origin.
allowed_origins = [os.environ.get("BOARD_ORIGIN", "http://127.0.0.1:8000")]

# Browsers come with a token, which the application makes.
jwt_keys = [{"alg": "HS256", "key": os.environ["BOARD_SECRET"]}]

# Nobody needs to know where a cursor was.
channels = {"*": {"history_size": 0}}
