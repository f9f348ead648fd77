"""How a forward pass is computed: attention over pages and pieces, fused modules, towers. Knows no requests."""
