"""What a trained model is worth: losses, translations, scores with their intervals, latency."""
