"""The only room of training that knows Ray: clusters, lanes as Ray Train runs, and the queue as an actor."""
