"""How the features of a layer, and of layers, hang together: one question per file, tables in and tables out."""
