"""HTTP: routes, schemas, authentication, metrics. Knows the service's methods; refuses to know Ray and the engine."""
