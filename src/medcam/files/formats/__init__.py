"""Readers and writers of file formats: arrays and geometry; never a model, layer or target."""
