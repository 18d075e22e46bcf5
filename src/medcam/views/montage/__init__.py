"""Montage: a scene as a figure for print; it writes no file."""
