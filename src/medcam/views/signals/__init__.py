"""Signals: a 1D scene as curves that are coloured by the attention; it writes no file."""
