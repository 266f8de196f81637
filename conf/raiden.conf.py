# Settings of raiden: raiden -C raiden.conf.py
#
# This is Python. Each line but data_dir's shows a default: uncomment it to change it. Names of your own begin with
# "_". The environment overrides the file (RAIDEN_HTTP_PORT=80), and the command line both (-X 'http_port = 80'). Sizes
# are bytes and times are seconds.
# What is marked [reload] changes in a running node, without closing a connection: raiden reload, or SIGHUP.

# The door

# Address of the HTTP and WebSocket door.
# http_host = "127.0.0.1"
# Its port; 0 lets the kernel choose.
# http_port = 8088
# Address and port for those who look after the node: /-/metrics, /-/nodes, /-/channels and the like are served there,
# in plain HTTP, and no longer on http_port; /-/health and /-/ready are on both. None: all are on http_port. 0: the
# kernel chooses the port.
# control_host = "127.0.0.1"
# control_port = None
# With tls_cert: a port of http_host that answers plain HTTP with 308, to the same URL by https. None: none.
# http_redirect_port = None
# Allow http_host to be more than loopback: anyone who reaches it may publish and subscribe.
# open_to_the_world = False
# Worker processes that share the port; 0: one for each processor.
# workers = 1

# Files and the log

# Where the history, pid and log files live. The default is $XDG_STATE_HOME/raiden, or else ~/.local/state/raiden ("~"
# itself is not expanded); conf/raiden.service sets systemd's state directory.
# data_dir = "/var/lib/raiden"
# Pid file, by which stop, reload and status find the node; None: raiden.pid in data_dir.
# pid_file = None
# None: standard error; for 'raiden start' raiden.log in data_dir. SIGUSR1 opens it again, after it was rotated.
# log_file = None
# "text" for people, "json" for machines.
# log_format = "text"
# "DEBUG", "INFO", "WARNING" or "ERROR". [reload]
# log_level = "INFO"
# Log each request with its answer's status; publishing and long-polls get slower by it. [reload]
# access_log = False
# File of requests that were refused, and of what managers did, a line of JSON for each; "log": the ordinary log; None:
# nowhere. [reload]
# audit_log = None

# Stopping

# A node that is told to stop serves all for so long, with /-/ready at 503, so that load balancers look elsewhere.
# drain_delay = 0.0
# The rest of a stop takes no longer than this: clients are told to come back, requests under way are finished.
# drain_timeout = 10.0
# Where there are other nodes to go to, a stop spreads its clients' reconnects over this long.
# drain_window = 3.0

# Who may use which channel

# Pages that may use this node, like ["https://example.com"]; its own always may; ["*"]: any. [reload]
# allowed_origins = []
# Names that a node on loopback answers for in Host, besides localhost and its addresses, like ["a.example",
# "*.a.example"]; what a proxy in front of it passes on belongs here. A node that listens elsewhere answers for any name
# unless some are listed. ["*"]: any. [reload]
# allowed_hosts = []
# File with the certificate of the HTTP door and its chain, in PEM; the door speaks TLS 1.2 and 1.3 then, and nothing
# else. A reload reads the files again, for new connections. None: no TLS. [reload]
# tls_cert = None
# File with the certificate's key; None: it is in tls_cert. [reload]
# tls_key = None
# File with the certificates that sign those of clients: clients must show a certificate then. None: they need none.
# [reload]
# tls_client_ca = None
# False: with tls_client_ca, a client may come without a certificate; one that it shows must be good. [reload]
# tls_client_required = True
# Networks of proxies that tell the client's address, and whether it came by https, like ["127.0.0.1", "10.0.0.0/8"];
# what others tell is not believed. docs/proxies.md explains. [reload]
# trusted_proxies = []
# The field in which they tell the address: "X-Forwarded-For" or "Forwarded". They must set it on each request. [reload]
# proxy_header = "X-Forwarded-For"
# Ports, of "http_port" and "http_redirect_port", on which each connection must begin with a header of the PROXY
# protocol, version 2, of one of trusted_proxies.
# proxy_protocol = []
# Paths that are no channels by HTTP, since browsers, crawlers and probes ask for them by themselves: 404, which names
# the page that is meant, or for favicon.ico 204. "x/*" is all that begins with x/. [reload]
# reserved_paths = ["favicon.ico", "robots.txt", ".well-known/*", "metrics", "health", "healthz", "ready", "readyz"]
# Protocols of other servers that are spoken too, on paths that are no channels then: see docs/dialects.md.
# dialects = []
# Action Cable ("cable"): the path of its clients.
# cable_path = "/cable"
# The secret that signs streams and tokens, and gives the broadcast key, unless the following say otherwise. Each may be
# a list, of which old ones are good, too. With a secret, channels are for those who have a permission. [reload]
# cable_secret = []
# The secret that signs streams. [reload]
# cable_streams_secret = []
# The secret that signs those of Turbo. [reload]
# cable_turbo_secret = []
# The secret that signs those of CableReady. [reload]
# cable_cableready_secret = []
# The secret that signs tokens. [reload]
# cable_jwt_secret = []
# The key by which the application broadcasts. [reload]
# cable_broadcast_key = []
# Whether clients need a token. [reload]
# cable_token_required = False
# The query parameter with a token; with X- before it, the header field. [reload]
# cable_token_param = "jid"
# Streams need no signature; clients may whisper and be present on those without one. [reload]
# cable_public = False
# Clients may whisper and be present on signed streams, too. [reload]
# cable_whispers = False
# Seconds for which a client that was lost can come back to its streams; 0: it can't. [reload]
# cable_sessions = 300.0
# Seconds after which a client is closed that answered pings, and has stopped to; 0: it is not. [reload]
# cable_pong_timeout = 0.0
# The beginning of the names of channels that are streams of Durable Streams: /v1/stream/a is the channel "a" behind it.
# streams_prefix = ""
# Seconds for which their long-polls wait. [reload]
# streams_poll = 25.0
# Seconds after which their event streams end, so that the client comes back; 0: never. [reload]
# streams_sse = 60.0
# Of "centrifuge" (docs/dialects/centrifuge.md): whether a client may connect without a token; what a client may do to a
# channel that it is subscribed to, "publish", "history", "presence", where `channels` has that for tokens; whether
# clients may ask who is at a channel; whether subscribers are told who joins and leaves, asked or not; whether a client
# gets what comes on the channel "#USER" of its token; whether clients that ask for deltas get them; the key of
# Centrifugo's server API, None: there is no such API.
# centrifuge_anonymous = False
# centrifuge_subscribers = []
# centrifuge_presence = True
# centrifuge_join_leave = False
# centrifuge_personal = False
# centrifuge_delta = True
# centrifuge_api_key = None
# Apps of the dialect "pusher", like {"id": "1", "key": "...", "secret": "..."}: see docs/dialects/pusher.md.
# pusher_apps = []
# The beginning of its paths, like "/ws"; "": they are /app/ and /apps/.
# pusher_path = ""
# Users that a worker watches for the watchlists of its clients.
# pusher_max_watched = 5000
# The channel of a request: "path", "host_path", or a function of the webob request.
# channel_builder = "path"

# Who may do what

# Keys that sign tokens (JSON Web Tokens): {"alg": "HS256", "key": "..."}, or with the public key in a file {"alg":
# "EdDSA", "file": "/etc/raiden/key.pem"}; with several, "kid" names each. alg is HS256, HS384, HS512, RS256, RS384,
# RS512, PS256, ES256, ES384, ES512 or EdDSA. {"jwks": "https://..."} is a set of keys that is fetched from there.
# "weak": True allows a secret that is shorter than its hash. With any of these keys, or API keys, channels are for
# those whose token or key permits it, unless `channels` says otherwise. [reload]
# jwt_keys = []
# The audience that a token must be for; None: any. [reload]
# jwt_audience = None
# The issuer that a token must be of; None: any. [reload]
# jwt_issuer = None
# By which clocks may differ: a token is good for so many seconds longer, and earlier. [reload]
# jwt_leeway = 10.0
# The cookie that may hold a browser's token; None: none. [reload]
# token_cookie = None
# Keys of an application's servers, by their hashes, which 'raiden key' makes, and what each may do: {"name": "shop",
# "sha256": "...", "publish": ["*"], "manage": ["shop.*"]}. [reload]
# api_keys = []
# How much a client may do: a number a second, and at once. "publish" counts messages and "subscribe" subscriptions, of
# a token's subject, a key, or else an address; "connect" connections of an address; "channel" messages to a channel.
# Like {"publish": (100, 200), "subscribe": (20, 100), "connect": (20, 100), "channel": (1000, 2000)}. [reload]
# rates = {}

# Webhooks

# Endpoints that are told of events: {"url": "https://app.example/raiden", "secret": "whsec_...", "events":
# ["channel.occupied", "channel.vacated", "client.connected", "client.disconnected", "message.published"], "channels":
# ["orders.*"]}, and if need be "name", "timeout" (15), "insecure": True (http elsewhere than on this machine). All
# nodes of a cluster have the same. See docs/webhooks.md. [reload]
# webhooks = []
# Attempts to send an event: after a second, then twice as long each time, up to an hour. Then it is given up. [reload]
# webhook_attempts = 50
# Events that may wait for an endpoint; beyond it the oldest are lost. [reload]
# webhook_queue = 100000
# A channel that had no subscribers for so many seconds is told as vacated. [reload]
# webhook_settle = 3.0
# The application decides what tokens and keys don't: {"url": "https://app.example/raiden", "timeout": 2, "headers":
# ["cookie"]}, or an object with methods on_connect, on_subscribe, on_publish, on_unsubscribe, on_disconnect;
# docs/delegates.md explains. With it, channels are for those that are allowed, unless `channels` says otherwise.
# Another object needs a restart. [reload]
# delegate = None

# History

# Where it lives: "sqlite" (in data_dir), "none", or a Redis or Valkey server (7 or later) that the nodes of a cluster
# share: "redis://[user:password@]host:port/0", "rediss://..." (TLS), "unix:///path", or by its Sentinels
# "redis+sentinel://host:port,host:port/service/0".
# store = "sqlite"
# Of the history in data_dir; beyond it, publishes are refused. 0: no limit.
# max_data = 1073741824
# Options by channel pattern, the longest match wins: history_size (messages that are kept; 0: none), history_ttl (for
# how many seconds), retain (for how many seconds the last one is kept, if that is longer), and ack: what an
# acknowledged message survives: "stored" (the end of any process), "synced" (the end of the machine), "shared" (the
# end of the node; where nodes share a store). discard is what goes where the history is full: "old", the oldest
# message, or "new", the publish, while a durable subscription needs that message. max_attempts is how often a durable
# subscription hands a message out before it gives it up (0: any number of times), and dead_letter the channel that gets
# it then ("": none). With show_from messages say who has published them, by the sub and info of a token. What a pattern
# doesn't say is: history_size 100, history_ttl 300, retain 0, ack "stored", discard "old", max_attempts 0, dead_letter
# "", show_from False. subscribe, publish, history, presence, request, serve and manage are for "anyone", for clients
# whose "token" or key permits it, or for "nobody".
# channels = {"*": {}}
# A message that others overtook is waited for so long, then fetched from the history.
# gap_time = 0.05
# Between looks whether a channel's last messages were lost on the way.
# position_check = 5.0

# Delivery

# Compress WebSocket messages for clients that offer it. [reload]
# ws_deflate = True
# Between pings or keep-alive lines. [reload]
# keepalive = 25.0
# Under load, seconds that messages may wait for others to share sends with; 0: none. [reload]
# max_gather = 0.02

# Limits of connections and channels

# Connections per worker. [reload]
# max_connections = 15000
# Connections per worker and client address. [reload]
# max_connections_per_address = 15000
# Subscriptions per connection; also channels of one publish. [reload]
# max_subscriptions = 128
# Of durable subscriptions, per worker. [reload]
# max_consumers = 2000
# Streaming publishes, per worker. [reload]
# max_streams = 1000
# That clients of a worker wait for servers to answer. [reload]
# max_requests = 10000
# Members of a channel that presence lists; of more only the number. [reload]
# max_presence = 1000
# A member that has left a channel may come back for so long before others are told. [reload]
# presence_linger = 5.0
# Channels and patterns that a worker carries. [reload]
# max_channels = 100000
# Of the names that a worker carries; the backbones take 130 to 180 times as much. [reload]
# max_channel_bytes = 4194304
# What may wait for a slow consumer before it is closed. [reload]
# max_outbox = 4194304

# Limits of requests

# Body of a request. [reload]
# max_body = 1048576
# Messages of a batch. [reload]
# max_batch = 1000
# A message that goes out as JSON, wrapped: many WebSocket libraries take no more than 1 MiB. [reload]
# max_message = 1048576
# URL of a request. [reload]
# max_url = 8192
# Header of a request, names and values. [reload]
# max_header = 16384
# Header fields of a request. [reload]
# max_headers = 100
# A WebSocket message, counted after inflating. [reload]
# max_ws_message = 1048576
# What a worker holds of requests and messages that have not come whole, together. [reload]
# max_unfinished = 268435456

# Time

# A long-poll waits no longer, whatever it asks for. [reload]
# max_wait = 120.0
# A WebSocket's session can be resumed for so long after it was lost. [reload]
# session_window = 120.0
# From the first byte of a request, or of a WebSocket message, to its last; a large one has longer, as long as its bytes
# come at 4 KiB a second. [reload]
# request_timeout = 30.0
# Between the requests of a connection. [reload]
# idle_timeout = 75.0
# Without a byte of a streaming publish. [reload]
# stream_timeout = 120.0

# The ZeroMQ doors; docs/zeromq.md explains

# Their address; without zmq_key it must be loopback.
# zmq_host = "127.0.0.1"
# The door for SUB; None: closed, 0: the kernel chooses.
# zmq_sub_port = None
# The door for PUSH.
# zmq_push_port = None
# The door for REQ and DEALER.
# zmq_req_port = None
# File with the doors' secret key, from 'raiden keygen FILE'; None: no keys, and no encryption.
# zmq_key = None
# Who may come in: clients' public keys, and what each stands for, like {"name": "feeder", "publish": ["news.*"],
# "subscribe": ["*"], "history": ["*"]}; what is not listed is not allowed. [reload]
# zmq_keys = {}
# Topics of a SUB client; one with more is cut off. Channels that a DEALER serves; more are refused. [reload]
# zmq_max_topics = 1000
# Seconds between messages on the topic '-/heartbeat'; 0: none.
# zmq_heartbeat = 0.0

# The backbone

# Messages that a backbone socket queues.
# backbone_high_water = 100000

# The cluster; conf/cluster.conf.py is a node of one, docs/cluster.md explains

# Address of the backbone's door, that other nodes connect to.
# backend_host = "127.0.0.1"
# Its port; 0 lets the kernel choose.
# backend_port = 9989
# Allow backend_host to be more than loopback without keys: whoever reaches it reads all messages and may be a node.
# open_backbone = False
# The address that other nodes are told, "host:port"; None: backend_host and backend_port.
# advertise = None
# Nodes to know from the start, like "node1.example:9989"; one is enough. This node's own address may be among them.
# peers = []
# More sources of nodes, looked at again and again: "dns:NAME:PORT" (all its addresses), "srv:NAME", "file:PATH" (one
# host:port a line).
# discovery = []
# Nodes that must be connected before this one is ready (/-/ready). [reload]
# min_peers = 0
# Whether a node is ready (/-/ready) whose history can't be written: for channels without history it works. Where all
# nodes share a store that is away, a balancer that asks has no node left otherwise. [reload]
# ready_without_store = False
# File with this node's secret key, from 'raiden keygen'; None: no encryption.
# node_key = None
# Public keys of the nodes that may connect.
# node_keys = []

# Services of your own: what service(worker) returns, one or a list, starts and stops with each worker. They publish
# with worker.publish(channel, value), and find worker.router and worker.gateway. If one fails to start, the node does
# not start either. This one publishes the time, from worker 0 alone.

# import time
#
# import gevent
#
# from raiden.service import Service
#
#
# class Clock(Service):
#     def __init__(self, worker):
#         super().__init__()
#         self.worker = worker
#
#     def do_start(self):
#         self.spawn(self.tick)
#
#     def tick(self):
#         while True:
#             self.worker.publish("clock", int(time.time()))
#             gevent.sleep(1)
#
#
# def service(worker):
#     return Clock(worker) if worker.stats.worker == 0 else []
