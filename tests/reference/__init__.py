"""Plain loops, a module per method: what tests compare the engine with.

Each is written from its paper or released code with ordinary modules and optimizers, one seed at a time. They share how
networks are built and compared and how noise is drawn (`common`), and nothing with the package but its noise.
"""
