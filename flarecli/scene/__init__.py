"""Value types that the stages hand to each other. No file access, no models.

``Views`` and ``Prediction`` are torch (on a device, in prepared pixels); ``Reconstruction`` is the hub: numpy,
read-only, in the pixels of the upright original photos. ``flarecli.inference.assemble`` is the only
door between the two.
"""
