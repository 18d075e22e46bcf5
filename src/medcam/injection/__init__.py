"""Injection: a model whose every call also makes maps; it never changes the model it was given."""
