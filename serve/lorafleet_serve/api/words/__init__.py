"""The words of other people's clients: names of fields and of samplers, and what they call a body."""
