"""Search: trials with other options, the hopeless ones stopped early, the best one kept.

`config` says how many and what is varied, `space` which values there are, `study` asks Optuna
for the next ones and for what is hopeless, `search` is the station's verb and `picture` draws
the result. What a trial does is the caller's business: nothing here knows of training.
"""
