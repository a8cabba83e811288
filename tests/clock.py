"""How long a test waits for what has to happen at once."""

# Seconds. Two are promised, on an idle machine; the suite keeps all cores busy.
AT_ONCE = 6.0
