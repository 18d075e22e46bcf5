"""Placement: where on the image the cells of a tensor lie. Never changes what the model computes."""
