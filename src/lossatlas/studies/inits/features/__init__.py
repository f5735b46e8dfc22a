"""What can be measured of an initialisation before its training, from true losses."""
