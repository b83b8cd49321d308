"""The commands of `captionlab`. Each file is a command of the same name.

The function `command` of a file runs it, and the function's docstring is its help.
"""
