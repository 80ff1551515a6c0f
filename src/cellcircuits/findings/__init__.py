"""One biological question per file: tables in, one table out. No torch here."""
