"""Who asks: principals, tokens, grants."""
