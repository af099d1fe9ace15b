"""What a user types, and the programs that other machines start."""
