"""Exchanges, queues and confirms: one transport contract, RabbitMQ and embedded."""
