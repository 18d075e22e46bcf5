"""Model: layers, inputs and outputs of the user's network; it never makes a map."""
