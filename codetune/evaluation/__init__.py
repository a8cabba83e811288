"""Is the tuned model better than its base on code that neither has seen?"""
