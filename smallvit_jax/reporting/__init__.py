"""Reports of finished runs: reading workdirs, drawing figures, the HTML page, model cards."""
