"""Explanations: what users ask for, hold, show and save; it computes no map itself."""
