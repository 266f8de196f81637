"""The Centrifuge client protocol, and Centrifugo's server API."""
