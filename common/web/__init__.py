"""Pages for people: templates, texts in two languages, and a console that serves them to this machine's browser alone."""
