"""Statistics over trajectories and the tables that show them. Imports core only."""
