"""What a trained model says of patients, and what it looked at: at the site, on the site's own CT."""
