"""Adapting the shipped network to photos of the user, without cameras or depth from elsewhere."""
