"""The stages: each reads artifacts of a run, calls the core, and writes one artifact. Same signature, same word."""
