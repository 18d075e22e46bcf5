"""A case on disk: maps, pictures, pages and their record; it never runs a model."""
