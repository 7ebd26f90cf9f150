"""The long versions of what must never fail, with a summary; `make soak` runs them."""
