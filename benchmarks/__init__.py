"""Benchmarks: eventplat measured on the real servers, every process on this machine."""
