"""Images as jobs: asked for now, fetched later. Knows a `Backend`; refuses to know engines and Ray."""
