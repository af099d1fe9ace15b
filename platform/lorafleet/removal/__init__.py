"""What is taken out of a home for good: versions and their bundles, what was taken, and what must not come back."""
