"""Maps of loss landscapes: directions, planes, engines, and the map itself."""
