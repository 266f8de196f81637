"""What a connection becomes once it has subscribed.

`Transports` makes a session of what a request asks for (`raiden.sessions.asks.Subscribe`): a `Stream`, a `Poll` with
its `Waiter`, a `Socket`, or the `MultiplexSocket` that takes commands. What all share is `Session`."""
