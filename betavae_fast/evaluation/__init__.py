"""What a trained model has learned, in numbers and pictures."""
