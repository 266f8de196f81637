"""Sessions, which connections become once they have subscribed.

`Transports` makes a session for an ask (`raiden.sessions.asks.Subscribe`): a `Stream`, a `Poll` with its `Waiter`, a
`Socket`, or the `MultiplexSocket` that takes commands. Their common base is `Session`."""
