"""The commands of the platform: adapters and the demo."""
