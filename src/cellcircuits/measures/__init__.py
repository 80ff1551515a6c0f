"""What the findings are computed with: chances in closed form, strata, tests. Tables in and out; no torch."""
