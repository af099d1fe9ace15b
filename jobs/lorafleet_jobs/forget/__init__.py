"""What is taken out of a home: everything of a subject for good, and files that nothing needs any more."""
