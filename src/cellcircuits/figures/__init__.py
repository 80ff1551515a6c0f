"""One figure per question: what was found, as matplotlib figures that belong to no window."""
