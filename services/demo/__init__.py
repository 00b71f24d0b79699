"""The demo: a shop full of customers, through the gateway, and what must be true afterwards."""
