"""Learning features by predicting how pictures were turned (Gidaris et al. 2018, arXiv:1803.07728)."""
