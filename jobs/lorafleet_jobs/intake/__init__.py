"""From a manifest to a plan: subjects, recipes and the jobs they make. Starts nothing and imports no Ray."""
