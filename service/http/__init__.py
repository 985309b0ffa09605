"""How HTTP is spoken here: bodies in, errors out, ids, and the description of it all."""
