"""Writers and readers, one format per module. None changes the reconstruction it is given; none needs torch."""
