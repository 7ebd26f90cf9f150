"""What leaves the house: models in other forms."""
