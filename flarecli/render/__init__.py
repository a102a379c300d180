"""Pictures of 3D Gaussians: gsplat on CUDA, a renderer of our own on the CPU, both differentiable, behind one function.

Both follow the conventions of 3D Gaussian splatting as gsplat implements them: local affine (EWA) projection, 0.3 px of
blur added to every footprint, contributions below 1/255 left out, front-to-back compositing in order of z-depth until
the transmittance falls below 1e-4, pixel centres at 0.5.
"""
