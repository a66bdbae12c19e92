"""Recording of data sets: an agent that learns, random actions, a controller in a maze."""
