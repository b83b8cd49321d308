"""captionlab's library. Reading order is data order: a file imports only what stands above it
(docs/design.md)."""
