"""Speed, measured as ratios in one run; results are committed under results/."""
