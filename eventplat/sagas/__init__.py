"""Durable functions: a pure core, a store and an orchestrator."""
