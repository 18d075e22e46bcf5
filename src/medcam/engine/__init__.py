"""Engine: one run of a model, or of its windows, to maps; it knows no file and no picture."""
