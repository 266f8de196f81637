"""The Pusher Channels protocol, version 7, and its HTTP API (https://pusher.com/docs/channels/library_auth_reference)."""
