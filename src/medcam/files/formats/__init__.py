"""File formats: one file each; none knows another, nor what a map is."""
