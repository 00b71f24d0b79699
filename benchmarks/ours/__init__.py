"""eventplat's own programs, with what a service of its own always carries: the full envelope, the checks, the limits."""
