"""What leaves the house: models in other forms, triplets as tables and graphs."""
