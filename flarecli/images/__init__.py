"""Photos: finding, decoding, preparing for a network, writing upright copies."""
