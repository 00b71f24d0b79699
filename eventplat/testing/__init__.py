"""What a user's tests need: the harness and its clock."""
