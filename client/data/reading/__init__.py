"""Table files of any known format, read by rows and columns, with errors that name file, line and column and show no row."""
