"""The bundled data and the script that builds it; no part of the product imports this package."""
