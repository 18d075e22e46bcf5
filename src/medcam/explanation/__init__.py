"""Explanation: what users ask for, hold and save; it computes no map itself."""
