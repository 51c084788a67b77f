"""What `bench/gpu.py` measures, a file each."""
