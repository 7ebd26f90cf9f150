"""The service: extraction over HTTP, and the page at its root."""
