"""Placement: where on the image a tensor's cells lie. It never changes the result."""
