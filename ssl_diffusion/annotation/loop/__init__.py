"""The loop: a job, its rounds, its fits, and what is known of them."""
