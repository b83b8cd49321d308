"""The library: a room (folder) per step. A room imports from the rooms below it alone
(docs/explanation/architecture.md)."""
