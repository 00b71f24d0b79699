"""Databases: engines, transactions, the platform's migrations."""
