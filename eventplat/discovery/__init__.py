"""Who is there: instances, heartbeats, manifests, routes."""
