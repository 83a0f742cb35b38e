"""Looking for the best combination: candidates in, scores out."""
