"""Fuzzing of everything that reads files from strangers (README.md)."""
