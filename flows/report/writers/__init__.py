"""Writers of a report: HTML, Markdown, CSV, LaTeX and terminal text."""
