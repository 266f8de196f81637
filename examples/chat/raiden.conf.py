"""Raiden's settings for the chat: raiden -C raiden.conf.py, with the variables that `run` sets."""

import hashlib
import os

# The page comes from the application, which is another origin.
allowed_origins = [os.environ.get("CHAT_ORIGIN", "http://127.0.0.1:8000")]

# Browsers come with a token, which the application makes.
jwt_keys = [{"alg": "HS256", "key": os.environ["CHAT_JWT_SECRET"]}]

# The application comes with a key. It publishes what people say, and it revokes the tokens of those who are banned.
api_keys = [
    {
        "name": "chat",
        "sha256": hashlib.sha256(os.environ["CHAT_API_KEY"].encode()).hexdigest(),
        "publish": ["room.*"],
        "manage": ["*"],
    }
]

# A room remembers its last 1,000 messages for a week.
channels = {"*": {"history_size": 0}, "room.*": {"history_size": 1000, "history_ttl": 7 * 86400}}
