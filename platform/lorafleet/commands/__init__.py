"""The commands of the platform: adapters, bases and the demo."""
