"""What travels: message classes, ids, the envelope and its bytes."""
