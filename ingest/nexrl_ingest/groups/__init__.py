"""Groups of rollouts: what a trainer plans, which are ready and by what rule, who holds them."""
