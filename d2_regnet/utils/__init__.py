"""What every room may use: command lines, files, drawing, charts, counting operations."""
