"""A subject's pictures and captions, found, read and examined. Knows files; refuses to know recipes and jobs."""
