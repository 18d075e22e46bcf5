"""The record beside a map: what it is of and how it was made; it never reads a pickle."""
