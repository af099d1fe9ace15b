"""The only part of serving that knows Ray: deployments, routing between replicas, starting and stopping."""
