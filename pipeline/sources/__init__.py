"""Registry: a module here is found by its name; see pipeline/core/registry.py."""
