"""HTTP in, messages out, answers back."""
