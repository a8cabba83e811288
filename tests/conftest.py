"""Every test may send Ctrl-C to the processes it starts."""

import signal

# A shell that runs the suite in the background has it ignore SIGINT, and children inherit that:
# with a handler of our own they start with the default again.
signal.signal(signal.SIGINT, signal.default_int_handler)
