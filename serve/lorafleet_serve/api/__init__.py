"""HTTP: routes, bodies, metrics, and the service that answers them with an engine. Refuses to know Ray."""
