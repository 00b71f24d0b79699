"""What a user declares, and what runs it."""
