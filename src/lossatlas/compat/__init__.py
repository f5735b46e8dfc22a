"""The names of toploss 0.1.0 and topoadamw 0.1.0, served by lossatlas."""
