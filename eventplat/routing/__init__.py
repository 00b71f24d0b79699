"""Request and reply between processes."""
