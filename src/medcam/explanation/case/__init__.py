"""Cases on disk: maps, pictures, pages and the record of each; it never runs a model."""
