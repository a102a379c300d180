"""What a finished scene looks like: its photos, camera paths, films, sheets, and Gaussians fitted to photos."""
