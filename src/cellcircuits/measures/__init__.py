"""What the findings are computed with: chances in closed form, strata, tests. Tables and arrays in and out; no torch."""
