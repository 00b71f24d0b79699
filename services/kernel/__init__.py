"""The shared kernel: the few types that every service of the shop spells the same way."""
