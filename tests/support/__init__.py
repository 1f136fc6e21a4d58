"""What tests share: commands, pools, jobs, processes to kill, a fake Label Studio."""
