"""What people own on a server and what they do with it: sources, datasets, tunings, models.

Routes and commands are thin translations onto these functions; each takes the actor.
"""
