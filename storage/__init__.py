"""Keep what a run makes: identity, files, tables and SQL over them."""
