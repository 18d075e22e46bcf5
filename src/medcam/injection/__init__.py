"""Injection: the one line, a model that makes maps beside; the given model is never changed."""
