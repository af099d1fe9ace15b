"""What training and serving compute alike, in plain torch and the papers' symbols."""
