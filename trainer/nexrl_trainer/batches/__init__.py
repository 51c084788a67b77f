"""What a step trains on: from leased groups to datums, what each token is worth, and how they are dealt out."""
