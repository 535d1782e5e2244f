"""Memory whose cold pages lie compressed in an engine; docs/memory.md tells how it works."""
