"""What every room builds on: time, threads, room and pace. Knows no stage."""
