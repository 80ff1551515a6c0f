"""One figure per question: what was found in, figures of no window out."""
