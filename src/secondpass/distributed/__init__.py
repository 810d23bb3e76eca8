"""The same ranking on many machines: a job in shards, and a server in replicas, on Ray."""
