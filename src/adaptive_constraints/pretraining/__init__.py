"""Models and columns made from the data before step 1, their cache and their resuming."""
