# A node of a cluster: raiden -C cluster.conf.py. Copy it to each node and change what is the node's own.
# docs/cluster.md explains; raiden.conf.py shows all settings.

# The door for clients. Anyone who reaches it may publish and subscribe.
http_host = "0.0.0.0"
open_to_the_world = True

# One worker a core is as many as help.
workers = 2

# The door for other nodes: this node's own address in their network.
backend_host = "10.0.0.1"
backend_port = 9989

# Some of the nodes; the others are learned from them. This node's own address may be among them.
peers = ["10.0.0.1:9989", "10.0.0.2:9989"]
# Or by name, with as many addresses as there are nodes:
# discovery = ["dns:raiden.example:9989"]

# Where the nodes keep their channels' history together: a Redis (7 or later) or Valkey server with appendfsync always.
store = "redis://10.0.0.9:6379/0"
# Without history:
# store = "none"

# Ready (/-/ready) when this many other nodes are connected.
min_peers = 1

# Each node's own key, made by 'raiden keygen', and the public keys of all.
node_key = "/var/lib/raiden/raiden.key"
node_keys = [
    # "nd}WIEOYB}7@J=o<eurg&KOmkLUmfv0u=h/{W02X",
]
# In a network that nobody else reaches, instead of keys:
# open_backbone = True

# A node that is told to stop says so to the load balancer, by /-/ready, for longer than that takes to look.
drain_delay = 5.0
# Then it tells its clients to come back, one after the other, over this long.
drain_window = 5.0
drain_timeout = 15.0
