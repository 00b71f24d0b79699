"""Leases, leadership and fencing."""
