"""Photos to a network's reconstruction: reference choice, windows, prediction, cameras in photo pixels."""
