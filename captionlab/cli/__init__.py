"""A file here is a command of `captionlab`, by its name: the function `command`, whose docstring is
its help."""
