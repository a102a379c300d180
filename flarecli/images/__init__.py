"""Photos: finding and checking (``loading``), preparing for a network (``preparing``), upright copies (``writing``)."""
