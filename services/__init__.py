"""Reference services: a shop in four services and one consumer, written against the public door alone."""
