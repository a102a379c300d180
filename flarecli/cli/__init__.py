"""The command line; the only package that speaks typer and rich."""
