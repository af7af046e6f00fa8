"""Where arrays live: the mesh, the table of placement rules, and the start of processes."""
