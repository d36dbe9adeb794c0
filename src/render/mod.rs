//! Numbers -> picture: normalise, colour map, overlay, encode.
