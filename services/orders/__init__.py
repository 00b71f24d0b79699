"""Orders: the order book, and the sagas that fill it: checkout and refund."""
