//! hull: an OCI container runtime. A bundle is compiled into a plan; a wall carries it out.
