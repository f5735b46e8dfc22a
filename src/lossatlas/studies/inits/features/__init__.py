"""What can be measured of an initialization before its training, from true losses."""
