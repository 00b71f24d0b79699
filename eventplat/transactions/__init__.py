"""Inbox, outbox, pending: one transaction, then ack."""
