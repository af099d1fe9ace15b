"""A worker's life: it leases jobs, trains them pack after pack, publishes, and gives way. Imports no Ray."""
