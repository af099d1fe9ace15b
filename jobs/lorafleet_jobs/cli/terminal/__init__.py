"""What commands share: options, what a shell completes, and how progress is shown."""
