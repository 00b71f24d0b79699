"""The command line: a noun or verb per file."""
